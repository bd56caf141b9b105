"""Which rows of the public evaluation splits make up our evaluation sets, and the hashes of BLiMP's many files.

The rows were drawn at random once. They are listed rather than drawn again from a seed, so that no change of a
random generator can ever alter what is measured.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np


def chosen_rows(name: str) -> list[int]:
    """The rows (from 0, ascending) of an evaluation set in its origin file; BLiMP counts on through its files."""
    bits = np.frombuffer(zlib.decompress(base64.b85decode(_BITS[name])), dtype=np.uint8)
    return [int(row) for row in np.flatnonzero(np.unpackbits(bits, bitorder="little"))]


# Bit i, least significant first, says whether row i is in; deflated, then base 85.
_BITS = {
    "arc_easy": (
        "c-jFe0oMLemUIOY81CKJPHHo9IXwr_hXS%Qh>x`4(-~T3jWo;lOG6g6Vs}*o;4}^m=N?wANAj-xvA7EzpE!2l3Kb4&|JbDmjt9BM2&C@"
        "<ACv_+LmY%+?8#^~XX-6)2PRSeq6*@9SV${Q^mgt8@#M1(rE{<uVuhq1T9Bx}oetviQ$&BBHMt%+qcNhjFiZE8ZS|vHhaA@TMA>o;gvh"
        "wIc<j1ADW&r61c*%hX@8x;EOf4Y&80cmLGqu~0-af2tW1|mxEB6LH~A`N{CJigv?Sn7mi=e5y7$by*YI|O{Bq8D`kk7Gn+BnIa8SVz8%"
        "4*hm5chiKV#$kX4){Uvlsw^Q#p(3-#5&oxFzCQElm}0THht(EZ{`JnrDo@IXDGgUYM;?jB=Aa"
    ),
    "arc_challenge": (
        "c-jGz0Brw;Q#(kQv5=Bnu1nh8jyAZ$O&RgsLXnF`;LbndPFmJ(?TA<k(h`g3Nki$|z>aKQj!>VoBrNcltQmMa@@>`%{(nBWLs{=^C@Cv"
        "6JTCFO+MFE~C2n+o;?ega0r*RNw!PW$eu6f+yN5Ux{yDbg2M3Eha*Aa%QI0A%Es59_jEp_<ZIL|q$C~D+O?Rd#DGsgaNbU"
    ),
    "piqa": (
        "c-jHx02%+p$xf^5p48=7yZXGhwvCuz!aZ#(HCt!Kb+Mw$uKCP5jk6-iyml!?Z(!-Qx$Iz7^%oa%syEf;ZMq1a^Cws%_c4{b)O<S;ZD-F"
        "8D~})djMAcw)(2+bI8kX<Ui~v}uKmIw#jlRK&K$Qau~n@mi)HL%5WFmbS*vQV?nv9$jg4mdjhuQTj(C1wNix69@~+?Wtj8|C>a0ARTOX"
        "0KT^IGHl5Li?voW`>cil*XOKu_o)rtqL5tEJBTY?U$$zAAU?K0l?GWcTnGc|ZIZ5sZt|Me4274COy-FvUB<spV5KW+|s>;"
    ),
    "openbookqa": ("c-jF!0KorobI-j0zrWho`*ps$S9|{Ym&CKN_ie4Y|E%xabMN23XZ-$n;TN0V&-CwJxBvesJMZTBz@6F4a(Mnf-w(5?ET#"),
    "copa": ("c-qT6oP6%>KJCT*TkHNX0RT5D2bT"),
    "winogrande": (
        "c-jG<0AT-kyHB3mzKHxcUVi7j`x~RVv`_c-`ycktm;3(6c%J{C{iLZb)UW44+nfJm-rwg~>bI@;M3xVsefNIZ53M_Ke&dpl)|*vntLH-"
        ";tZ}!aaC+97x3}!~`tO@O9kImsp4pK<x6L|hN_+U832j|h_y4?HzS(2zll$heTlj=SVdMDZzwfMnUjExX*ED|LxxRgK&vPZq^Mh`@{s7"
        "T`WP1"
    ),
    "boolq": (
        "c-jq+ze^)g6ot=yxrsNKae2lOB5ZM;9hRg}#vh=C$jdN7wzIU1Vj<ga|D2tLELfxx!6tSJ_O_!~_$OHUr}(O`Ih^xxu$G~ND#>2>476%"
        "EORl83bG{~m&Xh$9JxpB}r|xzDOp16<6zZ8U9d1Sc84h#uCLd;t51tFEb)2XjjEA<LL)7-)X9OUBaIkanTu^Mrkiy)|{P*fSsy+KEY&9"
        "rhk>>+OEK{u+9viMHZbuefEc`NXec|X$OkASH+Vm`hIjPa<K}`Foi$Iw#qvP>N9?7&$&%j7+^aFn}ad0X>gZ3Zp*^#EoMjh=8V1N)uzq"
        "{&vxsQ~W3bnFS5m{VW?+kM=yAMW`sfeAeP}^mKz2i1Ai%~x`{MwXH6OQ?;3-<rW!Sogajg&V6I?w_UzR6{hp8~(z<@N*^0|!!0EJ0qip"
        "{MG(HKf;;*>!PDU;NTVHU"
    ),
    "lambada": (
        "c-jrm(MwZd9Eb7m``f$up0()pIK#z?cWcHJgSmDQ1@Z1Q<0u$2BL;bKk^~6}5xakPT)Lv<Bt)x=S~4iY3-zkYlT5KY35qVesQ;r~JU7q"
        "X$2;b1=Y7c82Jhmo-4|!dQdZEYm_k4(l2T^__-P#*Z&;R?h%2}su?jN>vVpGY&ts^Xv)^P!GQ1k@Wbu^r9umKVsz??S;7G>8-2G}<Qd@"
        "uOHLCI?$+NL|(y0(lB6==W2vC+n=5VNU&q)k;+iJSYzx+n2E}Yzj%P*Oh^C<`=<sDhRtr|7AfdT*Xa*I4s)JXn0SmQIh0nAc>Q(r48-)"
        "<L*yG)zhyeyc8Xi7j1fjEajCs-6RH1!1$b{_Wr%yl*j=3nb$Z7Ea5xV)NxB52q6$9@$$3SM^dFW3^|L9{s;m6?^UI)Erg;U+&+6L~>y8"
        "Z^fm<)98jhdQHvVxqzmoM>xTFj5_DPw9e=Xop!=$xDyLq>G$5b2N<ombN%~=Wmgn9XV0sHG9^?xzD$~BQ)hJYu1nwdJ9&hM*2y#Qp~P7"
        "(ZF?{*`Z)LW5W2|77AiPx%3@~C&?0HH6tDqZYl*(VV1e8N~{RI*b)-M#?y-OZAbVL`wU_`<W4n`3d|KA8pOVBOsY-DO)&ZHp8sgM{{iv"
        "Adh&+?%T77!bPt$+%fS;)sqS8iR4bfYH=0vTQ)(VDTR|uO;y|o1_!k@hlqOPxsD#<Z>ye&=n6n<}F`uUQ>O<*1u|Ce?2*LgXtM-`*"
    ),
    "blimp": (
        "c-lo-&(B*)R=rg&J7u>!l-=%@(?qE3ev@&U26<34iddks=QVP-df`O9fSof0DMGV|Sg|ZSZ(8oCh1{)Kgq;(OAPW`|V!_hs0W@q-R)}R"
        "Y5)z0Fe*)*+df)I#`Qq>Sy{fuD&bjB_w-Jd(J{FNIE_w;I$7i`GlFZ6T@M6RpNxYaO2Is{Ek%v)Y<~4tNDjtt?=NCyyyevf~KIIhoY<M"
        "WLKRMjD!oL}wG-t_avXvm$w%pU>zB-DS+hSrlgEuK+i;(26#pJX;;fUg9GH}+{xIPi%PFBQCxUl~8-&x={{@h~+H<zy9dmQ|c!3T>~yi"
        "9gHZ?2M>Doe-T*m81~?b#nhUddFrQ<5QeH^w>{NtH9K$5s5)FwM)^N)Gr&@*3BU*zaJhNV&&LI{R#mx2BIj7oHbw$`W~Vlfx!Ia8l=f<"
        "o$6PhIl6I#p5g!wd4-GdA90ob?@RR=VId`<O_G;rvzUfZefcceTm7^Ov$EkM)vL{?{0SZ)rAip1o1~Bb6k@C%u2M_+m7*w*dMON(ko#a"
        "<$E%^8{s-^;Z7k4mXcuOed)#B63Oro2impn?x?jq3VfSR9fUL{&lpc6e}!)nzg?A^5nx$!msy(O7#`>CYjErq?h74zNMdHpAziV<lX)0"
        "}$Fgi_MJ4jNlXI=n*&Yu@<BlcQ3^|jC|9k$6JXj;$+|@Mx^PG?vA)H)gakjUxKTp+@w~{m7oYji_$XJWrbg>Jq%h`-Ack4TODVsg6e>y"
        "@ANiVsv1fzDrRS4`zaw9X{na>BHX$f1*aR>`T4vt3QzO^10-alxfSjIQ`9n&INY-webk76ggP`noG3J(}sk$!7~%sbK!duxKlH@1f)nh"
        "`%n^e`tceOvQ{6VHt@JrbguYCgl{jF6NBHN`W{B)rEDk;dgz^4CT2H*E&WV9F!929WOaX<2t%iO;!!0jO9qg^~M1EBm}ytd6#t@<<NGE"
        "NGvxcX{V$2tnoT#0HI7*7U&lPUboNSl#9g%t}eubyhx40q(V5AR3HG%1%tkS#C|iQ0f$a+$<311cxu>RZryia2S3uwZ(sqpJ7g#$`Cw8"
        "UV>*ctaU)Xi@4VWXMjJT8B0e#_cIyj!?uZK8MxQDP8@Q<7!0=C*huUKNpXJPJ99wl&{nHaHj=HlTRBE&=jl4O<fbwL8ycA)RKJkIg?=p"
        "iS^92=Af*Z}S$M4Af=x0;W&zIFg{H$94(L_nJ-%3O3$&yIH#{P@>{BGH$?gNqsY&4tWu3spat3QN1&!d5FsCCjzq9fO0Yuh`gxSPY#qg"
        "EdQGP%T@@}f>177PR&`A6<4wB)qr|E{?i#%S)Nds3K65T$Lxc`li)X+(I3>tz_ax3JOhp!#$K{TiiBkPGJm+YscFr1{x7hq||gCzO&4>"
        "1wC>W{A$#%3%jZndexYp-YtM3$X;g$+JsH`9t`{cJMQg&L)oL?^tzgaH<3m8z7F!F}>~&ohBw^}JNN<J=Md>8aVudVmWv7AGVEs?io6m"
        "!01eep9*P>b`PtJi`5nnfSKIAvSKO!2eZ6RxA)o{+~pvD8XY&#I(55n^tRIcGmtBCy8UXT_Jf~Mui|sqdd!!;9+AM^_0RNxNQh@Y!9Xw"
        "YTgC`*=Oe5W5whYh(NJ|#~tvf{xA~zlHZ8@4_rkT#uL*<VLn01ks9uzd_}F9hgum-23GuVgdJs*@c`qq<s&ZJ_lW=g^k@-YJ;%?o*1^w"
        "kFoMHLa=<dG%QNnR`_2WapcNeS6Q+CK@&p8qU0}oH3opY#5vlHuh5OUcZf%zw18%W6g<H2J*qK7l&h{xA0?H3raJkS*41#C0Q|DCHbg9"
        "5x;Ua@&;YQqX14-*;>*YlUr^SWmgVQJ>f_3zOSwwmKq4-s1bzW;=en8hHUoYpxR05|o*@n#Xh6b(%3{WkcYY_(LPX2*=JJ@Fxeiuz8Af"
        "C4#Zt*XZ-;U&8c%#HRg+|69+W)OI-bP*<6J}AWrThr;%Ma!>VGe7*)LIy8<T2<}>pT@fVkZ8MVb%POM@tQhxI;{Qik(P5)8RH!AfZa;s"
        "2IC0&`4N%V`7ZuB$<dwnM*+{$=asp1Ek`CzO*QO@NGia`^Db0ztT~*OC}+seJ#5j;x5-L8Bxg+XRpuvKg6}d5((hW$eEr@=Qv~_!VjA4"
        "(XE&;IDLE>_Jt`#RfEEj7Jn(%(@L&tDr16D)$_AtG|3Z~Ou3Q_a>+{@x|Z_FQwWE$j`jXPma<R~E<f@}SL-eV&+z<!PS`K3E@tXJ7o2G"
        "wW0IM*mK1)K;U@1@ZJ^FUT?b+p<md|TQ#fyFo$2y8V3s~_(IP-H1Kp(bhHn0Fb$g~l7TcUNIZA$l1sn>X{Cy#!DZ}Hc7g)3AYDae@)XB"
        "Okk|Ld(Nj)||0GmmnA4Grxx99#WDHWQ7!zR-AQvo?=Z{?Gy@oPD6IbfWVDkoINZjoYgE&WPL`C+E#g&}(^vX<(OoA*6*jr*h2BVqhH=G"
        "o-uxhI-R%>SL^R(P;i1J2R<uF{F*_hq?fSP>j+jPdRptj2Rtc`cPGLNr?N02Tag7~*j8V3miTV9hx;#kwcU5`nKF{&6;?jI@@ojmt;G9"
        "*&B>NV7DnN_7{=M{P115L)t9jWkJ7kFuS^jyUQAN93c#I_RVmOLLIqyHlz^uyMVHv5`1Z%MId|=bAr-dSO>bRdc^$6lKn02kyVGXm+RQ"
        "QG3P_4b-Dj?pWR9JF2hS;+?GqIrQ<EGi7BgtJ$~SWwk{eM2(2f0H~<cG7@y>DNy8YrNayOIGM@B#$}SdJ#`9*(!F_UOxBYA6>0L|L@q}"
        "+CEL;tAUt*4;5>eAwfUl(#pzKtNcZTE?SXIz+9(%bfU0;MwHBc1$SBk(aUQx8?Gh=U)OZ;XP;Sc*L$!S;t9M(@H*Ua&OUpq}NgqAjgY4"
        "hggw{dK4h-W5jE9Q1h9W50Z~#s;>$D8RUwIt>mKQ7(r_iq6c4q3x!Bi$|p)`lQ*&JQ&bc1YB*N!rb-jd_|jJ+asozEp-OuZ=LUoil_w3"
        "ebQy;Jlh&hZ4kMvZo;<CcyY2vTU6v=uqBLgMK`l!dJ{Y4Kch_~nm)Ds~(^{;FGwCQC`6SEn&$r5crWrqno+S=bP+-?j~u*@nSI%!l;aY"
        "M_}s9x=fYddL-MOb`}|*g=*k5v38WB{uTM;3ZH6!y8mMI<ivRspeyf&51oU{-~Cr^i@fZkQG&?KBYBz@@7S<Or899X`g(l^a{M#>H@uT"
        "l>O@6q5{BpJrx@u5cI5ut0G8~r8X4hG-iSNTQz03St#c+<Ad{Wy4mjNBGjLG?SmQ+{|adDYYk^xk49xusxekEW@O`rX`@0Fha<*@&hYT"
        "*9>tN6*wc=#cE@SlgVx4~t8a%BNr7v}FF-s#jGEH!ltOrtGzJ@3a+&8a;u^sLQD#}-D(0Bq6c@M++g4W}d|`j6_G{qbU1kpSDCqNhRy)"
        "w?`9I?*hMuaL`~NTK@iS)g1fwI>lABmfCYwT!C1L94SNHwI6#Y!t=F*shHUcvz8@AzIH4=Q&H58p(I=Ykmu7r<^2GgGHv^JjZktU7NVv"
        "n_6B!4w5xj_t?iCH?0^>JRBB}fM-4M66|ay>E#6T$+qsnue{3DJsojxS7sr4mBPnp*rlG)q93C?0^OiPCtHdN$4A<(Rh+(qnVYn1T+M9"
        ">MoLY8K@LP>Y4ga?9D6%O6bJ0u^Bqt9vJ!OqyZOBIKZ)lZHeo2eH4;h(a?Nc~PqXkY?z5BONJNbBc2@Q$4cg#);MJ9CJ~ju=uGgE@VFz"
        "|1T&4=wa7HZQSVh%e+7VPD<N(p*#Q~FJ!qz@+y(jAqVWT!V`wc&_!qAHFs?4=>04SlXEE%-*ngylRxZ03lE40H0vfLZJiyMC(*m$p8y5"
        "uiJe>`J$BWi-5_Q-5~LMO7p<x37o|Ib16RTH97?Z!$SYgwH5=AO*%y`5Lj(Pzq*Z`4@zKtaV@VwjV3m709n`@AJ9o|M%|<(2c}B6ofuN"
        "`!GScfdYnkj1W&Ttx_A%ziPWF!8%~e|_L_Q8z>NLh1I}#HhQ4$m>=|Y)4pzkLtJ<{SG%@-Ui4v^nD9j+e%j4|19xmEf^Vw|J=t-q)|=T"
        "vH?-BFNU>FjXRB`JsSkA|Ag9&!NJ!a}?EcJqXrxTF#t2?amC0hXeAW7BU-H}XD3li31ko%(Nny@lsHU9|_RkAp9*RYH2E&Zm+~fT`{P1"
        "P<XWl_6Wp-%naTO6#=or76;>P?8TxpAc0Bsr5_w3w{JI^(6iaR?4?C9Y1B+(oqpf3(GuX(t1!v2jz3jY;^N{pEH592jTf{TPn0TNP4zV"
        "qVn2^dU?ee=6V+A1)?@Sr+Xq!nrx38EuAg31nK<`9W=)<NE<i#ByfOiOD@2tvU1jhvG>3&;@c(8no^qY7&*pDzGXcbcDO9AACRMfwr5J"
        "!r5M38g9jE5|E9R&idr7b@-PlKmczpvRWsxYU#bXe-=z#&CMq>NgGn;F8m80u`0uoOPNk*kTPk?i$n6#UWl@#FVWfF-SW@Rz!iGDb`qa"
        "e2l4ooBW%|^gx3t7gKs?1c>_85Kp#BScu1b0{-ibp$kf_!RU*Bicx78ci;wufqLdse#-F%62r{lV4#8f6}wftp@6{(xaF^;yay|Z=6qF"
        "`Q&TOjBme3RN)nw-!>MU;L-2&|VB7wv<g3E{~AzJM^&(UR9Eo+E=cB#;3<{JfpC43S1dc5T8QA41+<8ni1{gH!N@+j!_rHd}@<<-qt2`"
        "j#BGZf4EZY)=I%45cy#2D5yxmd3g4hh)E0y>%s^X7T{Pf4oo)Ggti6$4%T3X?<31G)S*w+Gt)G-`7eE;+<((*#h&bfh*6JLGzG%>rCt5"
        "<m-gK56C%(HZ@FM{wcQ^vjI#1^BS;n+EKBvWF41sulXyFXi;K?H-K3IuC>YSwb?WFQdE%LV&8=-N8~~yen<;$g55(YB_Z(b4LIiu5Yi)"
        "x;rW!@<UfD_s5~v+u&fgc7lkCNhjZPCPAPuBG~ZE^A#8QT?rbq;G|2<<6@Eb%1%%7l=!Wu)WPsK#<mD~d_D-_i?>M4DgEN}S)w=_L(!Z"
        "8!M_(K?{wN5k?eV#f;}lq1Xjnfeotol|6DRnkWV9#JTSW%vjmnffqW80lMjFJRKC&I$riOQQ(4~1uJrLUddLSP9IzhS1b`s3%d~I}0Co"
        "MmHtUYjf4FMr9sv^uje39b<nr^LqDUlrZI)5cIkH};$Ldi0=Z9X1~%7`m2mfEXkdVE{xK(MA8$wmfjFGC-vB7ZhajP;z*W=sY>KU9GLZ"
        "H?HVkh01)FWnkPe$Kp$Wb2iy$y8+kIcD5+hH{p?8uL>9dBMjFe$qMRR|N_zzIT_})*-buGnVER>ofdhBHYm7au$3%()LBP_vDgWW(0s}"
        "7sYYM73Z)Zyj+59q+g-fJo%57%E1DhJK(%IUtnnmNC$ajS?dkxj7Pf(1K~#!o>rvTjOJ(55&>UJj`W?!nIu6=8;N)5f28O?GkhJs5^PI"
        "{z65Zr)_+5ZkY{&-<{vMY*&c=3SRxr+R^I5eKS2}W=+#YiW$b0p=w}(l<oSp)BeMBI>33e;cNql(E7(>gr3NRxrA$ZqQte1L@XaQBEHz"
        "=lmXtx!nGa`0Ich#@bIBz-@9UsNY1GL_EiSw!r;gFcF#PVO{FFg$?C#4JS%G5~3R~oI+}F(PrnJHH_6;8Ty01Q>UAY2(C^=OVoj7!eF|"
        ">qzzq6l}8MMrH8r6ZgyZG}l^K7>kmLNHBjHk4j!M+YSmqB22kr%d5@mc$&w%M6|s-ob$(<02bClQ@O;4o)Tqw;f38c>A83zy^G##IMus"
        "2$gpcfd~mgbY}^?qqggu_8H2+4S-oIu4WT*hb~n!Nx(q9a>4;hV)p~d{|IHl($|4EfB?&U(Og93#ROkg6sQZ8M6ds{kSvVr>v(6(U(%^"
        "QX6TE-4ILBqcc%abk?^ndANa|LiN4I88r`NU#JR%HzS2VDoDJVM|{L=Ic%ll@`bZFllcm6lXe%|%2_P%xz2X^VipuuWF5HWpvED9F<L4"
        "~?;#D>!SS8Cq$$2)7T9mEwS{lG?Z@=n944{FSrq-vu>n)e>;^X7X<vo9mBd#fFG0RK;WjCNuU<=c4YCaF%T;><RKm|`S>;vv!AVO~$IG"
        "g%hZN`f3dUYBe1LDQT%+OV&92OtME(!bg-FT"
    ),
}

# Paradigm: SHA-256 and bytes of its file.
BLIMP_FILES = {
    "adjunct_island": ("ecc71c452516de03deeb9262b4203e45220dc52727327a08eef07c79c01eac8b", 359284),
    "anaphor_gender_agreement": ("fd7d6e47196fa1310a251d3aa88ae9a62bb64d3cec35fc02617229d5799767e1", 436749),
    "anaphor_number_agreement": ("05c16b8bfe4feb5b3552dc2c53d1742ce0c91d9a1c896684335bdddd4373cc9b", 450861),
    "animate_subject_passive": ("245e91961cf597150244c3945c6d0033e691b27ba6cf298c62920d355426e70c", 462292),
    "animate_subject_trans": ("a7bffeda200f648c33dd215d91d8f5756fcd1e3f410bab467f1ed9235f215850", 433098),
    "causative": ("2e1006cc24094a3049586888105b22181d77e09e11dea65a326b49977bb366f1", 317162),
    "complex_NP_island": ("1c92472731dd9a21eb222d64bee756042a3763c3797b5283d5b84ab8e3cbb74c", 392362),
    "coordinate_structure_constraint_complex_left_branch": (
        "47e0e04efeb320449a8eb2ac722b895041a8609580fec2880dbc719f50fba194",
        571696,
    ),
    "coordinate_structure_constraint_object_extraction": (
        "d01c27a7a893f3ec071a7913efa504d297671d86a987f26ddb565de914db2fd7",
        366045,
    ),
    "determiner_noun_agreement_1": ("f48065fd760d0fd1a895012860d38bdf3c2ac115cd221e521684cc430c0f1855", 468642),
    "determiner_noun_agreement_2": ("8ae7eff7c7bd384ff5ef3113984834f4d78b34559203aa9d5cb14ea8394291a9", 488856),
    "determiner_noun_agreement_irregular_1": (
        "4f350e88db9e29e53ae96f1f0b5991c7809fd4fd403190907330b721e1e6e264",
        474932,
    ),
    "determiner_noun_agreement_irregular_2": (
        "d688af0ccd0614d24a936e0929276784f37554f3ad3e247c3bade8dcaa9099df",
        490854,
    ),
    "determiner_noun_agreement_with_adj_2": (
        "8d2828d7dfbfc3f7191024514060fedb033ea2e232304f63448c33051a85d2b3",
        526806,
    ),
    "determiner_noun_agreement_with_adj_irregular_1": (
        "1f4c6e42a48f4220afec629679641479feac3883cd7fa346d9e9e129cd7e8f55",
        499664,
    ),
    "determiner_noun_agreement_with_adj_irregular_2": (
        "aa3f297a7ce0c03b5fc00458834f89e54eb855973be098497f766a390b4bc669",
        528528,
    ),
    "determiner_noun_agreement_with_adjective_1": (
        "2c3de4e7b7aea499fb7cf1b23b9c3b63662289880f991b9ffabe5ceb94cf7430",
        504676,
    ),
    "distractor_agreement_relational_noun": (
        "37c1553f4c6594b162256edce0f6b40bad1898b311c8aaa69605b526b6494a34",
        525650,
    ),
    "distractor_agreement_relative_clause": (
        "854728b6db8f23f12583f7332b654835351eaedb50783e6f2a3bf6c101b8c422",
        564770,
    ),
    "drop_argument": ("e262339a262a57a8f56dc41941ee1dc32c62eb97054b27d33cd8c356a6e62064", 304196),
    "ellipsis_n_bar_1": ("3cc0bcf91631a4476ce573ea9dbf9627d52efbe071c26019e2c2448b68769d09", 411980),
    "ellipsis_n_bar_2": ("3dfc2b378ea4867186917ec9cce5ce927e4d3bb6addf018bc31b870dd2aa8474", 427551),
    "existential_there_object_raising": ("3781bfd54ec1208fc634f4d365189f948ec246526a7345b5148dd3ab6023ff4f", 550672),
    "existential_there_quantifiers_1": ("4bd0f6dee3c1824b51b0dafb9fce2b00933e8053fcd4a7b99b6202e1b8b49f9e", 357321),
    "existential_there_quantifiers_2": ("b1a80f4ebebae90a90927259f95b680059020e6bb4e38e64a41eb8e53bc3f617", 359216),
    "existential_there_subject_raising": ("7c6f5b13225f73a777755c1948beef5cfa31d135ae8a0e7ba8853d256fbece23", 394453),
    "expletive_it_object_raising": ("15ed3a52c978ecfe5eda7f64b0304b5bd133439cccb2c97fde20834f39874c93", 587648),
    "inchoative": ("d9389a7130ca84c6f920c9d892cc60c1b20f378d28e7041b1c53ae589fc84f1d", 298709),
    "intransitive": ("9af9f3f30c891cd21623922b62fd97685552b4ae94a6cfd5617a5f0cb0f731b3", 305487),
    "irregular_past_participle_adjectives": (
        "5e490be0723989499391ac14d11b3bb6677f4b470514486b2db3fbfe76d56b3c",
        444520,
    ),
    "irregular_past_participle_verbs": ("75a990117c1a403d3b479e0fbe170f6919c2408def738ffcea8c62b49b70a555", 420119),
    "irregular_plural_subject_verb_agreement_1": (
        "0066174143671bffa54232d89254d14221afab666273edfefdfb625fbb75e226",
        460705,
    ),
    "irregular_plural_subject_verb_agreement_2": (
        "9b22db814e7b7251f4abafe8beb9616f2f46eaa58f7cdb701cbc737cc8f1a124",
        453376,
    ),
    "left_branch_island_echo_question": ("7dadbe3c5a5ceadb78b9408807ac88230ddd748abfe8de8121f064e2bce94ad8", 482617),
    "left_branch_island_simple_question": ("e2a64b8a1b7b8d94f931018cf9325836e9c79953a01379233da255eac5e8cd71", 343450),
    "matrix_question_npi_licensor_present": (
        "657c9d6e6d50a9cd651881fcbc57cef2fd998611f6f53158ed05e48822fcd2b5",
        457806,
    ),
    "npi_present_1": ("9aa85dc5c2b0d85ea51f21db50d6d327ab5b45d1669e386d54b1360d3ac954af", 438013),
    "npi_present_2": ("52fcfa230a40ae27998273cc08ecd062aad17025c92389df3404a85ed519909b", 422136),
    "only_npi_licensor_present": ("475c6595187a32e4dcfb868d3db90394e89669a94a9312ebd60f88dad1665f1c", 459170),
    "only_npi_scope": ("ca1f0671643e37936515f02125036bc2904ab9b35c4689b0e7a3ea3914e571f6", 583720),
    "passive_1": ("e9374307bca5c24e9df18597a0859f7fb5ca4cfe5f136ec894d1ba69f4c90116", 340272),
    "passive_2": ("4d49e438185bed4122a252dd9ee69bc8eccb2fe6c1b09ccc78198fd925fed8c5", 308350),
    "principle_A_c_command": ("74c8111666542c797dee1c38c9e432b0b65751dfa0faa51874a990f2cbfc76fc", 527689),
    "principle_A_case_1": ("7efb5246fe315dc2cf56b80739783cffcddee9e52650716cf5aa0f6987f7644d", 477239),
    "principle_A_case_2": ("5de6db4c21a8433bc1f1030e81d5ee151efce02078460f7de7ca5e9566afd914", 492973),
    "principle_A_domain_1": ("2276dc35a51396c7d11a401e378e0f4b31cd10d7916c73e9a361703cb96eddc5", 499865),
    "principle_A_domain_2": ("9d14e5ae911fb8ddf571484ef2d6a6e6a053765c1c6d34253aec2c11f7d7306a", 493189),
    "principle_A_domain_3": ("a0d66b9d8541ab1df08f629161c6c4e8bca3aa2693eaa342edd2097e6b579bdd", 513886),
    "principle_A_reconstruction": ("65dc403c4d6e9a609f2c4cc2ec6c8baa05cf6fce89b920a816b0d9932204b2a3", 345494),
    "regular_plural_subject_verb_agreement_1": (
        "1a18d94062c8e792c0a200a3b00dff0e051a92bb084c05e9b5e5c73bee32a620",
        451850,
    ),
    "regular_plural_subject_verb_agreement_2": (
        "e5b4668811e63b00ac4c9569cb9553281a39c21df43256905ad78e59ae24942c",
        456477,
    ),
    "sentential_negation_npi_licensor_present": (
        "c43405aca13ba4aa6ad87f9b051e4ba5fc458f24e683cfe0af23e6e09ec7268b",
        490996,
    ),
    "sentential_negation_npi_scope": ("6c341ccc39c94bea45c0412986751bf2f6eca48626728e30e23d2b6a22c8b949", 614930),
    "sentential_subject_island": ("a286b67cc5912aafeb06750b38923abf3338786ffa4309e0a6a07b1dbe2444bd", 365822),
    "superlative_quantifiers_1": ("bebc5c5ff28cf226cc35293c60cde1fcf7565a7b58cb219d01ac8908b952a497", 381189),
    "superlative_quantifiers_2": ("4bef08f3e6bd3fbb46021dda34000f3c00222c5576babe4882a8541f6820a106", 516120),
    "tough_vs_raising_1": ("8eb3a1ecbdbd969c5b77e2f85b12a39d33723bdc58d673e5067bb456da91d0e5", 343026),
    "tough_vs_raising_2": ("a6db2f24a8aee0c90a9be63e6bb6787fe04e990c518761115f69f27c7438b5ae", 364074),
    "transitive": ("48de2025571897c7590659c793d2d1ce85c247808d4199bad60f66cf2eb179ef", 460291),
    "wh_island": ("77824ca8c0008fb7a204e785ca2dcee1b2803f666bb545bd95cb8a51e04f1a4c", 448630),
    "wh_questions_object_gap": ("685c74eb8c199f30a24bba1bfabf9d9dff7962a64430e62b9b5f61d5369241ff", 387435),
    "wh_questions_subject_gap": ("3c33e4efc7182824211ff3288694cf010f4ce84f85c8df67410d784139c722b3", 389983),
    "wh_questions_subject_gap_long_distance": (
        "985bae202dbc5566b9b5c51bd77dd9d1dbcd87e0f38e008c34a11d7aa07db788",
        462660,
    ),
    "wh_vs_that_no_gap": ("6a25d0d1499e9f522696a62ce9dba8c49f58c5446fddc6d852bf562d1016163c", 383262),
    "wh_vs_that_no_gap_long_distance": ("968faf59602a67f9cfd7c2e91a314a3f7342fd5daf41c21cadd25288fc85fdcf", 441429),
    "wh_vs_that_with_gap": ("56f1ca988a8ca368234f12359792c414fdfec2891154e3f8ce6404da1d3f3212", 367776),
    "wh_vs_that_with_gap_long_distance": ("3cb19100d6384264e512801e96c20e172a3c0c7778276b80ed60c65e97b86ab5", 425985),
}
