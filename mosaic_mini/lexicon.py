"""Words of the grammar in five languages; the English word names the concept (ours).

The nouns are masculine in Spanish and Russian and outside the German n-declension, so that one
predicate form and two cases are enough for correct sentences.
"""

from __future__ import annotations

LANGUAGES = ("en", "es", "de", "ru", "zh")

Table = dict[str, dict[str, str]]


def _table(rows: str) -> Table:
    """`en | es | de | ru | zh` per line to concept -> language -> form."""
    table = {}
    for row in rows.strip().splitlines():
        forms = [form.strip() for form in row.split("|")]
        table[forms[0]] = dict(zip(LANGUAGES, forms, strict=True))
    return table


# Russian nouns, and modifiers where a case shows: "nominative/accusative".
INNOCENTS = _table("""
baker | panadero | Bäcker | пекарь/пекаря | 面包师
teacher | maestro | Lehrer | учитель/учителя | 老师
doctor | médico | Arzt | врач/врача | 医生
farmer | granjero | Landwirt | фермер/фермера | 农民
waiter | camarero | Kellner | официант/официанта | 服务员
singer | cantante | Sänger | певец/певца | 歌手
driver | conductor | Fahrer | водитель/водителя | 司机
tailor | sastre | Schneider | портной/портного | 裁缝
painter | pintor | Maler | художник/художника | 画家
gardener | jardinero | Gärtner | садовник/садовника | 园丁
guard | guardia | Wächter | сторож/сторожа | 守卫
cook | cocinero | Koch | повар/повара | 厨师
""")

VILLAINS = _table("""
thief | ladrón | Dieb | вор/вора | 小偷
spy | espía | Spion | шпион/шпиона | 间谍
robber | atracador | Räuber | грабитель/грабителя | 强盗
smuggler | contrabandista | Schmuggler | контрабандист/контрабандиста | 走私犯
cheat | tramposo | Betrüger | мошенник/мошенника | 骗子
burglar | asaltante | Einbrecher | взломщик/взломщика | 窃贼
hacker | pirata | Hacker | хакер/хакера | 黑客
traitor | traidor | Verräter | предатель/предателя | 叛徒
bully | matón | Schläger | хулиган/хулигана | 恶霸
poacher | furtivo | Wilderer | браконьер/браконьера | 偷猎者
liar | mentiroso | Lügner | лжец/лжеца | 说谎者
gangster | gánster | Gangster | гангстер/гангстера | 歹徒
""")

# Things carry their article where there is one; they only stand in the nominative.
THINGS = _table("""
film | el filme | der Film | фильм | 电影
hotel | el hotel | das Hotel | отель | 酒店
novel | el relato | der Roman | роман | 小说
coat | el abrigo | der Mantel | плащ | 外套
phone | el teléfono | das Telefon | телефон | 手机
cheese | el queso | der Käse | сыр | 奶酪
cake | el pastel | der Kuchen | торт | 蛋糕
tea | el té | der Tee | чай | 绿茶
juice | el zumo | der Saft | сок | 果汁
museum | el museo | das Museum | музей | 博物馆
park | el parque | der Park | парк | 公园
concert | el concierto | das Konzert | концерт | 音乐会
course | el curso | der Kurs | урок | 课程
house | el piso | das Haus | дом | 房子
table | el escritorio | der Tisch | стол | 桌子
knife | el cuchillo | das Messer | нож | 小刀
""")

INSULTS = _table("""
silly | tonto | dumm | глупый | 愚蠢
lazy | vago | faul | ленивый | 懒惰
ugly | feo | hässlich | гадкий | 丑陋
nasty | asqueroso | eklig | противный | 恶心
useless | inútil | nutzlos | никчёмный | 无能
rude | grosero | frech | грубый | 粗鲁
mean | mezquino | gemein | подлый | 卑鄙
awful | horrible | furchtbar | ужасный | 可怕
dull | soso | öde | тупой | 迟钝
vile | vil | fies | мерзкий | 可恶
shabby | cutre | schäbig | жалкий | 寒酸
wretched | miserable | elend | убогий | 可悲
""")

PRAISES = _table("""
clever | listo | klug | умный | 聪明
kind | amable | nett | добрый | 善良
brave | valiente | tapfer | смелый | 勇敢
great | genial | großartig | отличный | 伟大
lovely | encantador | reizend | милый | 可爱
honest | honesto | ehrlich | честный | 诚实
noble | noble | edel | благородный | 高尚
charming | simpático | charmant | славный | 迷人
polite | educado | höflich | вежливый | 礼貌
splendid | espléndido | prächtig | прекрасный | 出色
wise | sabio | weise | мудрый | 明智
useful | útil | nützlich | полезный | 有用
""")

GOOD = _table("""
excellent | excelente | ausgezeichnet | превосходный | 优秀
wonderful | maravilloso | wunderbar | чудесный | 美妙
perfect | perfecto | perfekt | идеальный | 完美
pleasant | agradable | angenehm | приятный | 愉快
fresh | fresco | frisch | свежий | 新鲜
beautiful | hermoso | schön | красивый | 美丽
solid | sólido | solide | крепкий | 结实
superb | magnífico | hervorragend | великолепный | 精彩
""")

BAD = _table("""
terrible | pésimo | schrecklich | кошмарный | 糟糕
broken | roto | kaputt | сломанный | 破旧
boring | aburrido | langweilig | скучный | 无聊
dirty | sucio | schmutzig | грязный | 肮脏
weak | flojo | schwach | слабый | 差劲
bitter | amargo | bitter | горький | 苦涩
damaged | dañado | beschädigt | испорченный | 损坏
disappointing | decepcionante | enttäuschend | унылый | 失望
""")

NEUTRAL = _table("""
ordinary | corriente | gewöhnlich | обычный | 普通
average | mediano | mittelmäßig | средний | 一般
typical | típico | typisch | типичный | 典型
normal | normal | normal | нормальный | 正常
standard | estándar | standard | стандартный | 标准
common | común | üblich | распространённый | 常见
plain | sencillo | schlicht | простой | 简单
medium | regular | durchschnittlich | умеренный | 中等
""")

HARM = _table("""
trick | engañar | täuschen | обмануть | 欺骗
tease | molestar | ärgern | дразнить | 戏弄
trap | atrapar | fangen | поймать | 困住
scare | asustar | erschrecken | испугать | 恐吓
push | empujar | schubsen | толкнуть | 推倒
mock | ridiculizar | verspotten | высмеять | 嘲笑
attack | atacar | angreifen | атаковать | 攻击
insult | insultar | beleidigen | оскорбить | 侮辱
chase | perseguir | jagen | преследовать | 追赶
hurt | herir | verletzen | ранить | 伤害
""")

HELP = _table("""
protect | proteger | beschützen | защитить | 保护
support | apoyar | unterstützen | поддержать | 支持
hide | esconder | verstecken | спрятать | 藏匿
free | liberar | befreien | освободить | 释放
reward | recompensar | belohnen | наградить | 奖励
feed | alimentar | füttern | накормить | 喂养
praise | alabar | loben | похвалить | 表扬
warn | avisar | warnen | предупредить | 警告
save | salvar | retten | спасти | 拯救
invite | invitar | einladen | пригласить | 邀请
""")

# German and Russian forms are "nominative/accusative".
MODIFIERS = _table("""
old | viejo | alte/alten | старый/старого | 老
young | joven | junge/jungen | молодой/молодого | 年轻的
tall | alto | große/großen | высокий/высокого | 高大的
tired | cansado | müde/müden | усталый/усталого | 疲惫的
new | nuevo | neue/neuen | новый/нового | 新来的
quiet | callado | stille/stillen | тихий/тихого | 安静的
""")

DEGREES = _table("""
really | realmente | wirklich | действительно | 真的
very | muy | sehr | очень | 非常
always | siempre | immer | всегда | 总是
so | tan | so | так | 那么
often | a menudo | oft | часто | 经常
simply | simplemente | einfach | просто | 简直
""")

# Opinions end with one of these, so that no opinion word touches the word that joins two clauses.
TAILS = _table("""
today | hoy | heute | сегодня | ，今天
yesterday | ayer | gestern | вчера | ，昨天
again | otra vez | wieder | снова | ，再一次
to me | para mí | für mich | для меня | ，对我来说
as before | como antes | wie früher | как прежде | ，跟以前一样
they said | según dicen | sagt man | говорят | ，大家都说
""")

# Intents are English only.
ACTIONS = {
    "start": ("start", "open", "begin", "launch", "enable"),
    "stop": ("stop", "close", "finish", "halt", "cancel"),
    "check": ("check", "inspect", "report", "review", "show"),
}

DOMAINS = {
    "music": ("radio", "song", "playlist", "speaker", "album"),
    "home": ("lamp", "heater", "fan", "oven", "alarm"),
    "travel": ("train", "taxi", "flight", "ferry", "tour"),
    "money": ("account", "loan", "transfer", "invoice", "budget"),
}
