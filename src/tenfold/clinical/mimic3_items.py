"""Which items of MIMIC-III are which variable, under the names of the PhysioNet Challenge 2012.

Both charting systems: CareVue (items below 220000) and MetaVision. Item ids are facts of the public data dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Table = Literal["CHARTEVENTS", "LABEVENTS", "INPUTEVENTS_CV", "INPUTEVENTS_MV", "PROCEDUREEVENTS_MV"]
Unit = Literal["plain", "fahrenheit", "percent", "flag"]


@dataclass(frozen=True)
class Item:
    """One item of one table and what it measures.

    Attributes:
        variable: its name here; several items may have one.
        table: where it is recorded.
        itemid: its number there.
        unit: "fahrenheit" becomes degrees Celsius, "percent" a fraction; of a "flag" only the presence counts.
    """

    variable: str
    table: Table
    itemid: int
    unit: Unit = "plain"


def _items(table: Table, unit: Unit = "plain", **variables: tuple[int, ...]) -> tuple[Item, ...]:
    return tuple(Item(name, table, itemid, unit) for name, ids in variables.items() for itemid in ids)


# The score of the Glasgow coma scale in MetaVision is the sum of these three.
GCS_PARTS = ("GCSEyes", "GCSVerbal", "GCSMotor")
INTERVENTIONS = ("MechVent", "Vasopressor")

ITEMS: tuple[Item, ...] = (
    *_items(
        "CHARTEVENTS",
        HR=(211, 220045),
        SysABP=(51, 220050),
        DiasABP=(8368, 220051),
        MAP=(52, 220052),
        NISysABP=(455, 220179),
        NIDiasABP=(8441, 220180),
        NIMAP=(456, 220181),
        RespRate=(618, 220210),
        SpO2=(646, 220277),
        Temp=(676, 223762),
        FiO2=(190,),
        GCS=(198,),
        GCSEyes=(220739,),
        GCSVerbal=(223900,),
        GCSMotor=(223901,),
    ),
    *_items("CHARTEVENTS", "fahrenheit", Temp=(678, 223761)),
    *_items("CHARTEVENTS", "percent", FiO2=(223835,)),
    *_items("CHARTEVENTS", "flag", MechVent=(720, 223849)),  # ventilator modes: written down while one is in use
    *_items(
        "LABEVENTS",
        Albumin=(50862,),
        ALP=(50863,),
        ALT=(50861,),
        AST=(50878,),
        Bilirubin=(50885,),
        BUN=(51006,),
        Creatinine=(50912,),
        Glucose=(50931,),
        HCO3=(50882,),
        HCT=(51221,),
        K=(50971,),
        Lactate=(50813,),
        Mg=(50960,),
        Na=(50983,),
        PaCO2=(50818,),
        PaO2=(50821,),
        pH=(50820,),
        Platelets=(51265,),
        TroponinI=(51002,),
        TroponinT=(51003,),
        WBC=(51301,),
    ),
    *_items("PROCEDUREEVENTS_MV", "flag", MechVent=(225792, 225794)),
    # Dobutamine, dopamine, epinephrine, norepinephrine, phenylephrine, vasopressin.
    *_items("INPUTEVENTS_MV", "flag", Vasopressor=(221653, 221662, 221289, 221906, 221749, 222315)),
    *_items(
        "INPUTEVENTS_CV",
        "flag",
        Vasopressor=(30042, 30306, 30043, 30307, 30044, 30119, 30309, 30047, 30120, 30127, 30128, 30051),
    ),
)
