"""The data of system 09: ToolDEER's tools and decision items, general queries, and questions of BFCL's categories.

The 400 verdicts of BFCL's own checker that the tests compare with (`bfcl/ast_cases.jsonl`) are not among them: they were made
with its program and cannot be rebuilt from its files.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np

from tenfold.core.conversions import Conversion, unchanged
from tenfold.core.deer_conversion import every_second, general_queries, three_of_four, tools
from tenfold.core.origins import GITHUB, Dataset, Origin

_DEER = f"{GITHUB}/Ericmututu/ToolDEER/3a9f2fbe62e7060337e92921a785e4b62862a937"
_BFCL = (
    f"{GITHUB}/ShishirPatil/gorilla/6ea57973c7a6097fd7c5915698c54c17c5b1b6c8"
    "/berkeley-function-call-leaderboard/bfcl_eval/data"
)
_SELF_INSTRUCT = f"{GITHUB}/yizhongw/self-instruct/0b26ccaa415992100fa32df62d41b994cf928e23"
_ALPACA = f"{GITHUB}/tangqiaoyu/ToolAlpaca/189069998d64a7baf1b4a1c3c4b2e75eb9d05532"


def order(name: str) -> list[int]:
    """The places of a set's rows among those of its origins (from 0), in the order of the set."""
    return [int(place) for place in np.frombuffer(zlib.decompress(base64.b85decode(_ORDER[name])), dtype="<u2")]


# Drawn at random once; 16 bits a place, deflated, then base 85.
_ORDER = {
    "tools_train": (
        "c-jTQ1Aq_)00q#G>aw+LE?l;4+xEI;U%GJDvW>;9cKN#O%d6$qvaQ9n_rkH5lQ0Nxc?~0&i;vYr@ljI!)E?20R@+brm9$WK6oAG0j=C&|+"
        "+M^Q3e#83LUP>ZJWf?w6hlIca!;maphHzvLp%hrS&-{EO6So9LGHp}&Cy5J##GjX9NkTL#OrmOzhR{^@-%yRiyElAXJ~|$Yc+H5Cfj&}df"
        "}jtF^7NgY3x!{=2tI`_ia5=ep9WzN55hW+Omf0_^1my1MlMjHzO5y%6N{vSbz$i#e~e@w7jP|oQ%obtL;jH*_@~R%*GH_S2eZQDNew7En{"
        "-lM`=~Z6fb0Ro>nK0MQg^!B28di%yuGORCIP{W|ZI=T+wa>XdGr^vMaNIhGC&Ep}Vf|Kc@6(m%<lrL<MZZN)GZA#X&+{K`AxVQe9**uF+K"
        "VVo~j849(;uw&6={@hz0)5oFSzjK*=S=&MNOtQg?--iHv4#wl&&1vKzd&%<@aa6RX8I4^Ls->|I3j7aKNs=|D(=`gfbAGOtSAJ<-{<4I-V"
        "QAh{*U5PMP;hvzTN`-Dtz+g9VBmB)f+@^y_&rQmL68H=4e9|+OkB3+uZ&BOHv`<SAhZVJz$1uz<_(X%%RZ(88={Se%y2i##i6Dk?y({6c+"
        "xm-cB8^jfq*CxFEJknaz<j<|kT&`QXS%l<5*BKpi*Be4ud_EhJCx0kMVA#%wa^OFHBCwUQ85+C!Q9Ve9*Wv}$=}h%PjG-mUCq_G%jY~>&2"
        "^7qo{vjP!si_92+Z&p6R|XsyEVeKm|P9`4jZ+PX|%|R(ahsazGg-pRSuoPU7TS#_xEIV$7e0!Y4>t8A7)G*@M^DfSzS{njmHp{_Bm$uAq6"
        "2R*7GSFV>BPJme(qu9%4QAs|h|J85esEVqzzjc(2PlvmT*}BK3zaqoHSFkajwgH><0+vA265o4;ZMEBhPjs6TFT0i)E<4^+q#(Ha9_zh`z"
        "N<`0@<s482ao>qE0_oD~bDFF&#7vgxCU+6M>;w&DZGUg(W`(e8)r~-$(lN%tAo$(%fyuq#fm=$?Tb(qyBI8<?Uo=-uS#u08satC9T@2D{P"
        "GQ`gn3yEFC6Wx`|a99yMgpU}f<-DmV0*Q6jk%+}y8pAw@qaXbkD>$45SVS|J(Pc4AbFdeknVE}FkK4SH<y75Alnh%Pj|;RG(ew<j*pIt7o"
        "#Pd*rs(TjXz8AwrKPOunk<7*_vZ-Y<Ts|!1yw_5{iD)6%e20#^lpig{LF{!tE9@0oY;b*e8=>9g$>B50PaC0XJQLq<v|7WfJ%B5VyhuiIH"
        "h866VsrN?=uh;@s+97Sn*Jt1<_FhwZc1Go<&ig16_*kIT$4|kULb^jaZxc5ZleY5O-Mx*AbU}7}uLz!1a}f0j{as8lbZ(%-rm$NH5V8uH|"
        "t3tP?J#X{d@p+`<l+??Q}FalOW7&Oj0sQc8a3SRdsu&gC@M^>DnzGqz-Z&2xOEQYa?*m^!j9-sxYKP&TbYbR^|BO>j4UVmq|cTP=4Mr$-0"
        "f)f&G+5wuYymhnjEMk3zeXid~4)nF~HVpp6%2dDEG?Q;||=)MvtFGKK53w#Hww1@8nK2%obz(AbSCoNNi=Q>bL-3OyM68{5n+Kde"
    ),
    "tools_dev_unseen": (
        "c-jTQuWAAT00-dTpR%M|l9dI6G8h&?T$^EHGMymCVb@~u2`qC9zJLd(h7&Gnv8)+H5Ht?EFCZd_-<L(7I}CWhO>YVn>Bl8bS>wzR14lkGh"
        "mkLMM@L1K{V6Mhtz$KnAki5s|FXrZKlths8%}vh^B-e;amg#%m@DQ26Rh#z*e&h(qK@+p^o=e;)RAXJJ?>TT#%VwL56`~g$#>aBCkg"
    ),
    "nosearch_train": (
        "c-jTQc}y2{9LM4B=lglTMzzYYrr{*5Wy`VDLTy5YS6OBrDMX2-%bP3{6{ySz&ospg6%T%D14AK~V~HJN!@LMV&E=Z2)*l@%nhk4RtLGW2F"
        "<eJ|SVW`k<}dY854Pwj=5bQbF;Cajrm>{^tT;qN!y$@efz_BPD-`e+)s~@58_!uy;z@4jsJ4?HX6O}4DPeQ0rmxo6NOk6V+I57<oTSc@Sx"
        "E{F-r0_*lB@PSf9f{dq|qGnTWM52ZS>@dC21c^<E5~R-P#|I(_uG+$9R`It<rrwN_8kx18Ygs3I0=#R&hWVtSLOpc3;PQWwV!Z&V}FARsZ"
        "NNR;yTZImi?Zq9Xq539r;Beavra@ozMfi5etW&5!nl4#)SHu21+#Yn96}ey|O!&>nI%#(&bLn5Qc1!dFW1j)>BjPmT8LZ#}Gc;yG<$f-+c"
        "4k&3*AQ|!@~Dq?{}Ev3yeVyn)mR{8c?nCqRwRGsB<-AJV$RJq?z3n|JAx7eK&b3v`4LGP=Ku3Xkc+T%kyE`=d{r$d?)vXo}YD$(0254)5Z"
        "Zl>M))7?|4rHU!RX$}V%tMkfNV6Z;b16<W?s#TyWO;e74s1YpJWOWODso-Kb;jgODr`j_8p@C}AX#ao_TCa_)X9ZhX#%c8-*>Xc63#s$Le"
        "6I)Dp>etvPwBj0Qi&I;KK`tFp3s~2t&bzyf6;J_*FgG(!+Kd|u{+UH<8u1(t1@LI!ezf`!z@9o$2dzfRcp;^wM5KgBv<q_N4-g<K7mvppc"
        "ob_TaPeXFVbJVcq87+O)S)A>eZWJo={F`qLJy`?F;yvGju2=&S4Zwv{7qF;u&R8p>5hJF-M<i8daei_t4BfmFfk0YlB|0boS~FUS|eL{<X"
        "@iixt}c<Q2`*"
    ),
    "nosearch_dev": (
        "c-jTQu`2{{7{}q?`~E&(!<{;*n@qYvT`U$ixRjKns2fghbEK5Wdd>}EaAHtwOm~?XQ0PJ!luSz9Ad6M`19+a9(5C?o^`s7+s7;q{wa$vxl"
        "<}H2bwu8GD5}O8zbt7n?D0WaQ*`^N-jvmgcEb=`{zI9O_+U+v%Ik(t=JXybx~E|YEr&@m`U~5vlC~agSW2h9&$T_rDs3-tp<~tQw{Na|LY"
        "<+)K`3#lq)n6XM+V7}Q_JeQQ*RiLV<Bb3@!aQ`<<%BcRa#lT_y^(7F=G"
    ),
}

_TOOLS = Origin(
    f"{_DEER}/data/processed/tool.json", "ab7f257c04beb9e44204b9d4fdcba8e115c273cfdd30e9b9ead7f6612aa02f40", 3363763
)
_GENERAL = (
    Origin(
        f"{_DEER}/data/processed/valid.json",
        "4b339b652364c2f2648f53e4c45dc02aef2e7b3f9a24d995917a3b3a07bfcd35",
        1765359,
    ),
    Origin(
        f"{_SELF_INSTRUCT}/data/seed_tasks.jsonl",
        "7779004fa198fdf27cf70a159363879d8a26c53329e11b436af17b3941875f48",
        110934,
    ),
    Origin(
        f"{_SELF_INSTRUCT}/human_eval/user_oriented_instructions.jsonl",
        "81d60a117db495cecedecd9193504fd07c5b5a42f6699ef6b0f9da10fc22f42e",
        170193,
    ),
)


def _deer(name: str, what: str, file: str, size: int, sha256: str, convert: Conversion, *origins: Origin) -> Dataset:
    return Dataset(name, what, "Apache-2.0", f"09-deer/{file}", size, sha256, convert, origins)


def _bfcl(category: str, what: str, size: int, sha256: str, origin: Origin) -> Dataset:
    return _deer(f"deer_bfcl_{category}", what, f"bfcl/{category}.jsonl", size, sha256, three_of_four, origin)


DEER = (
    _deer(
        "deer_tools_train",
        "820 of the 977 plugins of ToolDEER, with 7884 queries and calls (Gui et al. 2024), drawn at random",
        "tools_train.jsonl",
        2320627,
        "3f609b2296a65c57e9426776edcc13b07f6ab25fdeb1a9aac3bc640765bc584d",
        tools(order("tools_train")),
        _TOOLS,
    ),
    _deer(
        "deer_tools_unseen",
        "80 other plugins of ToolDEER, with 766 queries and calls",
        "tools_dev_unseen.jsonl",
        237565,
        "95662393b33c41a5d72f96aea8615a1fb12a60b932f5e80feeb0dba0007cafa3",
        tools(order("tools_dev_unseen")),
        _TOOLS,
    ),
    _deer(
        "deer_nosearch_train",
        "409 general queries that need no tool: of ToolDEER and of Self-Instruct (Wang et al. 2023), drawn at random",
        "nosearch_train.jsonl",
        159402,
        "c06fba323bb7d8649154e011dd7f942bce0f45ea2179c4297c954855f9b9034b",
        general_queries(order("nosearch_train")),
        *_GENERAL,
    ),
    _deer(
        "deer_nosearch_dev",
        "105 other general queries of the same",
        "nosearch_dev.jsonl",
        45236,
        "896386f4dbf6d3cbf8496fba91ef371c17dbd7c7a76233ab9f03d47fb7c09aa4",
        general_queries(order("nosearch_dev")),
        *_GENERAL,
    ),
    _deer(
        "toolbench_decisions",
        "every second of ToolDEER's 200 decision items from ToolBench",
        "toolbench_decision.jsonl",
        186776,
        "e1925a33794e9166c2ffd01d2b97efb01a40fa5d825aa35d32565093fcc9b9b4",
        every_second,
        Origin(
            f"{_DEER}/baselines/data/tool_bench.json",
            "ed663f752b7e0d4977f685d93547becfc5f26c88f2306a5004114ab8913f70f2",
            616701,
        ),
    ),
    _deer(
        "toolcorpus_decisions",
        "every second of ToolDEER's 126 decision items from ToolCorpus",
        "toolcorpus_decision.jsonl",
        59470,
        "e3bbe83c02312bfa015db77bc2030e6c02087881da5f0aa2cee970980c954e2e",
        every_second,
        Origin(
            f"{_DEER}/baselines/data/tool_corpus.json",
            "e5c7ff9ab0040861b9f957e8cb903584e3d25cb27749c8d830d08758cd3e1cad",
            184800,
        ),
    ),
    _bfcl(
        "simple_python",
        "three of four questions of BFCL v4, one function offered (Patil et al. 2025)",
        213736,
        "83879ce75b969aa78faeb0a07b3f3588d29d06b769a67b36157cb42edabc23d0",
        Origin(
            f"{_BFCL}/BFCL_v4_simple_python.json",
            "82dd63ba502eb2520c6b5d1d9a5c4b590e03ff261565175561f6228a367d1991",
            283274,
        ),
    ),
    _bfcl(
        "simple_python_answers",
        "the calls accepted for deer_bfcl_simple_python",
        48245,
        "090f8d1ede8b4bcbc7367378d0e4f9bbb9920f4a2e5d1432197c05cb8b372db6",
        Origin(
            f"{_BFCL}/possible_answer/BFCL_v4_simple_python.json",
            "90cd5bc653690ee8e459b5b3f3fc9458606f7f3fcbf795bb51b7dc581f8c86dc",
            63627,
        ),
    ),
    _bfcl(
        "multiple",
        "three of four questions of BFCL v4, several functions offered (Patil et al. 2025)",
        238688,
        "7187970f9d56e40dd532ec01361892baeb23460d42fb967e63b790ccf64009b7",
        Origin(
            f"{_BFCL}/BFCL_v4_multiple.json", "aef168155ebd74b7ac2401198b201343bc7d16d7a3d7e0d4e6d8ee82c6969b2a", 316583
        ),
    ),
    _bfcl(
        "multiple_answers",
        "the calls accepted for deer_bfcl_multiple",
        23796,
        "539e5c05a091f5f99c75cb7d7e25f425c44791cce0de62084618d23955a27378",
        Origin(
            f"{_BFCL}/possible_answer/BFCL_v4_multiple.json",
            "244e00ce9395df948bcafc7bee64e8f9c87ef70887587d83cae45b13699f3047",
            32254,
        ),
    ),
    _bfcl(
        "parallel",
        "three of four questions of BFCL v4, several calls of one function (Patil et al. 2025)",
        129517,
        "8e7703150a27f1b63c3603d055df5990f034deddc82e2beee82967fe2a37d5ca",
        Origin(
            f"{_BFCL}/BFCL_v4_parallel.json", "19f51a82eff42e5d62541aa500115a056eb78f437c2ba1f10415fd7c8e5dda84", 171896
        ),
    ),
    _bfcl(
        "parallel_answers",
        "the calls accepted for deer_bfcl_parallel",
        49571,
        "ddeb86ca0c5034652919708c6dbee9c6054b307f83a8855a90fbec8cdd0b6b9a",
        Origin(
            f"{_BFCL}/possible_answer/BFCL_v4_parallel.json",
            "8a6aa19c1adddc6a5a2f7e40f9dbf30cc7e95815e7b830c90589ab318229e0f0",
            66005,
        ),
    ),
    _bfcl(
        "parallel_multiple",
        "three of four questions of BFCL v4, several calls of several functions (Patil et al. 2025)",
        257935,
        "b699a0d0d26ddc55d6e46e38350c88742b0f87d48f90adc3507fab209c8ebd12",
        Origin(
            f"{_BFCL}/BFCL_v4_parallel_multiple.json",
            "8863ea8433239f55c5f016154cf0830853c89f693c6ea270396a2fa121960579",
            347080,
        ),
    ),
    _bfcl(
        "parallel_multiple_answers",
        "the calls accepted for deer_bfcl_parallel_multiple",
        55122,
        "f85b1e13a3e2952ba8568b17241ecf8a50b59fc6b233ea3972eeb946d1f66495",
        Origin(
            f"{_BFCL}/possible_answer/BFCL_v4_parallel_multiple.json",
            "5ebf24f458c1f16300c05505d83d6f0a1b68b79be273a033febd0d4f840507e3",
            74602,
        ),
    ),
    _bfcl(
        "irrelevance",
        "three of four questions of BFCL v4, no function fits (Patil et al. 2025)",
        120036,
        "b77cc473f61b5495de9afbc7f72d890f019f9217749b02b6954b1bf80af3032a",
        Origin(
            f"{_BFCL}/BFCL_v4_irrelevance.json",
            "2b6ed4c2e992cdcf5f1678a701851f944bef7550ee026ed1ddb89efed5be01a6",
            159940,
        ),
    ),
    _deer(
        "toolalpaca_simulated",
        "10 simulated services as OpenAPI documents, with questions: ToolAlpaca (Tang et al. 2023)",
        "toolalpaca_eval_simulated.json",
        213761,
        "17085ffefae0a0e15c1d2d564263063932d692011edf27ce8ae3d3803432ba08",
        unchanged,
        Origin(
            f"{_ALPACA}/data/eval_simulated.json",
            "17085ffefae0a0e15c1d2d564263063932d692011edf27ce8ae3d3803432ba08",
            213761,
        ),
    ),
)
