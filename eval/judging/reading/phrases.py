# ruff: noqa: RUF001
"""The phrases of short verdicts in other languages, which `eval.judging.reading.languages` reads.

A line is a meaning and its phrases. `than-` stands before what is compared with, `-than` behind it; `-` are words that
deny, doubt or limit. The noqa above is for letters that look like Latin ones: they are Cyrillic, and meant.
"""

GERMAN = """
overall: im vergleich|im direkten vergleich|von beiden|der beiden
i think: ich halte
is better: gefällt mir besser|gefällt mir mehr|für besser
clearly: aber nur knapp|wenn auch knapp
the: wählen|bevorzugen|nehmen|vorziehen
answer: antwort|assistent|option|reaktion
answers: antworten
the: die|der|das|den|dem
first: erste|ersten|erster
second: zweite|zweiten|zweiter
is: ist|war|sei|lautet
are: sind
better: besser|bessere|bessere antwort|hilfreicher|korrekter|genauer|überlegen|überzeugender|stärker
better: stärkere|vorzuziehen
best: beste|besten
worse: schlechter|schlechtere|schwächer|unterlegen
than: als
over: gegenüber
wins: gewinnt|siegt|hat gewonnen
winner: sieger|gewinner
verdict: urteil|endurteil|gesamturteil|ergebnis|endergebnis|bewertung|entscheidung|wertung|wahl
verdict: favorit|bessere antwort ist
final: endgültiges|endgültige|finales|abschließendes|abschließende
my: mein|meine
in my opinion: meiner meinung nach|meiner ansicht nach|meines erachtens|aus meiner sicht
i choose: ich würde|ich wähle|ich entscheide mich für|ich bevorzuge|ich nehme|ich würde wählen|wähle ich
i choose: entscheide ich mich für
i think: ich finde|ich denke|ich glaube
so: also|daher|deshalb|somit|folglich|darum|deswegen
overall: insgesamt|alles in allem|unterm strich|im großen und ganzen|letztlich|letztendlich|zusammenfassend|fazit
clearly: deutlich|klar|eindeutig|etwas|leicht|knapp|wesentlich|viel|weitaus
both: beide
equally: gleich|gleichermaßen|ebenso|genauso|etwa gleich|ungefähr gleich
good: gut|gute|hilfreich|korrekt|richtig|schlecht|stark
equal: gleichwertig|ebenbürtig|gleichauf
tie: unentschieden|gleichstand|remis
because: aufgrund|wegen|dank|weil|da|denn
that: dass
it: es
an: ein|eine
but: aber|jedoch|doch
-: nicht|kein|keine|keiner|aber|jedoch|obwohl|wenn|falls|sofern|vielleicht|könnte|falsch|fehlt|schlechter|weniger
"""
FRENCH = """
overall: des deux
clearly: mais de peu|de justesse
equally good: aussi bonnes l'une que l'autre|aussi bons l'un que l'autre
answer: réponse|la réponse|assistant|l'assistant|option|l'option
answers: réponses|les réponses
the: la|le|les
first: première|premier
second: deuxième|seconde|second
is: est|était
are: sont
better: meilleure|meilleur|supérieure|supérieur|préférable|plus utile|plus convaincante
worse: moins bonne|pire|inférieure|inférieur|moins utile
than: que|qu'|à|à la
beats: l'emporte sur|surpasse
wins: gagne|l'emporte|remporte la comparaison|a gagné
winner: gagnant|gagnante|vainqueur
verdict: verdict|choix|jugement|décision|résultat
final: final|finale|définitif
my: mon|ma
in my opinion: à mon avis|selon moi|pour moi
i choose: je choisis|je choisirais|je préfère|j'opte pour|je vote pour|je retiens
i think: je pense que|je trouve que|j'estime que
so: donc|ainsi|par conséquent|c'est pourquoi
in conclusion: en conclusion|en résumé|pour conclure|en somme|au final|finalement|conclusion
overall: dans l'ensemble|globalement|au total
clearly: nettement|clairement|légèrement|un peu|bien|beaucoup|largement
both: les deux|toutes deux|tous deux|les deux sont
equally: également|aussi
good: bonnes|bons|bonne|utiles|correctes
equal: équivalentes|équivalents|équivalent|égales|égaux
are equal: se valent|sont à égalité
tie: égalité|match nul|ex æquo
because: grâce à|en raison de|pour sa|car|parce que|parce qu'|puisque|puisqu'
it is: c'est
an: un|une
but: mais
-: ne|n'|pas|aucune|aucun|mais|cependant|toutefois|bien que|si|sauf|peut-être|pourrait|moins|fausse|faux|manque
"""
SPANISH = """
overall: de las dos|de los dos
clearly: pero por poco|por poco
answer: respuesta|asistente|opción
answers: respuestas
the: la|el|las|los
first: primera|primer|primero
second: segunda|segundo
is: es|fue
are: son
better: mejor|superior|preferible|más útil
worse: peor|inferior|menos útil
than: que|a la|a
beats: supera a
wins: gana|ganó
winner: ganador|ganadora
verdict: veredicto|decisión|elección|resultado|juicio
final: final|definitivo
my: mi
in my opinion: en mi opinión|a mi juicio|a mi parecer
i choose: elijo|elegiría|prefiero|me quedo con|escojo|opto por|voto por|yo elijo
i think: creo que|considero que|pienso que
so: por lo tanto|por tanto|así que|por ello|por eso|entonces|en consecuencia
in conclusion: en conclusión|en resumen|conclusión
overall: en general|en conjunto
clearly: claramente|ligeramente|mucho|algo|un poco
both: ambas|ambos|las dos|los dos|ambas las
equally: igualmente|igual de
good: buenas|buenos|válidas|útiles|correctas
equal: iguales|equivalentes|empatadas
tie: empate
because: por su|gracias a|debido a|por ser|porque|ya que|pues|puesto que|dado que
an: un|una
but: pero
-: no|ni|ninguna|pero|sin embargo|aunque|si|salvo|quizás|tal vez|podría|menos|falta|incorrecta
"""
PORTUGUESE = """
overall: das duas
i choose: eu prefiro|eu opto por
answer: resposta|a resposta|assistente|o assistente|opção|a opção
answers: respostas|as respostas
the: a|o|as|os
first: primeira|primeiro
second: segunda|segundo
is: é|foi
is the: é a|é o
are: são
better: melhor|superior|preferível|mais útil
worse: pior|inferior|menos útil
than: que|do que|que a|do que a|à|ao
beats: supera
wins: vence|ganha|venceu
winner: vencedor|vencedora
verdict: veredito|veredicto|decisão|escolha|resultado|julgamento
final: final|definitivo
my: minha|meu
in my opinion: na minha opinião|a meu ver
i choose: escolho|eu escolho|prefiro|opto por|fico com|voto em
i think: acho que|acredito que|considero que
so: portanto|assim|logo|por isso|então
in conclusion: em conclusão|em resumo|concluindo|conclusão
overall: no geral|em geral|no conjunto
clearly: claramente|ligeiramente|muito|um pouco|bem
both: ambas|ambos|as duas|os dois
equally: igualmente
good: boas|bons|úteis|corretas|válidas
equal: iguais|equivalentes|empatadas
tie: empate
because: por sua|graças a|devido a|por ser|porque|pois|já que|uma vez que
an: um|uma
but: mas
-: não|nem|nenhuma|mas|porém|embora|se|salvo|talvez|poderia|menos|falta|incorreta
"""
ITALIAN = """
overall: delle due|tra le due
answer: risposta|la risposta|assistente|l'assistente|opzione|l'opzione
answers: risposte|le risposte
the: la|il|le|lo
first: prima|primo
second: seconda|secondo
is: è
are: sono
better: migliore|superiore|preferibile|meglio|più utile
worse: peggiore|inferiore|meno utile
than: di|della|rispetto a|rispetto alla|a|alla|che
beats: supera
wins: vince|ha vinto
winner: vincitore|vincitrice
verdict: verdetto|decisione|scelta|giudizio|risultato
final: finale|definitivo
my: mio|mia
in my opinion: secondo me|a mio parere|a mio avviso
i choose: scelgo|preferisco|opto per|voto per
i think: credo che|penso che|ritengo che
so: quindi|pertanto|perciò|dunque
in conclusion: in conclusione|conclusione|in sintesi
overall: nel complesso|complessivamente
clearly: chiaramente|leggermente|molto|un po'|nettamente
both: entrambe|entrambi|le due|i due
equally: ugualmente|altrettanto
good: buone|valide|utili|corrette|buoni
equal: equivalenti|uguali|alla pari
tie: pareggio|parità
because: per la sua|grazie a|grazie alla|perché|poiché|dato che
an: un|una
but: ma
-: non|né|nessuna|ma|però|tuttavia|sebbene|se|forse|potrebbe|meno|manca|errata|sbagliata
"""
DUTCH = """
answer: antwoord|assistent|optie|reactie
answers: antwoorden
the: de|het
first: eerste
second: tweede
is: is
are: zijn
better: beter|betere|sterker|overtuigender
best: beste
worse: slechter|minder goed|zwakker
than: dan
wins: wint
winner: winnaar
verdict: oordeel|eindoordeel|conclusie|uitspraak|keuze|beslissing
my: mijn
in my opinion: naar mijn mening|volgens mij
i choose: ik kies|ik kies voor|ik verkies|ik ga voor
i think: ik vind
so: dus|daarom
overall: al met al|over het geheel genomen
clearly: duidelijk|iets|veel
both: beide
equally: even
good: goed|goede
equal: gelijkwaardig|gelijk
tie: gelijkspel
because: omdat|want|aangezien
but: maar
-: niet|geen|maar|echter|hoewel|als|tenzij|misschien|minder|fout
"""
POLISH = """
answer: odpowiedź|asystent|opcja
answers: odpowiedzi
first: pierwsza|pierwszy
second: druga|drugi
is: jest
are: są
better: lepsza|lepszy|najlepsza
worse: gorsza|gorszy
than: niż|od
wins: wygrywa
winner: zwycięzca
verdict: werdykt|wniosek|ocena|decyzja|wybór
final: ostateczny|końcowy|ostateczna
my: mój|moja|moim
in my opinion: moim zdaniem
i choose: wybieram
so: więc|dlatego|zatem
overall: podsumowując|ogólnie
clearly: zdecydowanie|wyraźnie|nieco
both: obie
equally: równie|tak samo
good: dobre
equal: równe|równorzędne
tie: remis
because: ponieważ|bo|gdyż
but: ale
-: nie|ale|jednak|chociaż|jeśli|może|mniej|błędna
"""
TURKISH = """
answer: cevap|yanıt|asistan
first: birinci|ilk
second: ikinci
better: daha iyi|daha iyidir|daha başarılı
-than: den daha|dan daha
tie: berabere|beraberlik
verdict: karar|sonuç|nihai karar|kazanan
"""
RUSSIAN = """
better than second: лучше второго
better than first: лучше первого
worse than answer: хуже ответа
better than answer: лучше ответа|лучше варианта
answer: ответ|ответа|ответу|вариант|ассистент|ассистента|модель
answers: ответы
first: первый|первого|первая
second: второй|второго|вторая
better: лучше|лучший|предпочтительнее|полезнее|более полезен|является лучшим|является более полезным
worse: хуже|слабее
than: чем
beats: превосходит|лучше чем
wins: побеждает|выигрывает|выиграл|победил
winner: победитель
verdict: вердикт|итог|вывод|решение|оценка|результат|выбор|заключение
final: итоговый|окончательный|итоговая|финальный|окончательное
my: мой|моё|моя
in my opinion: по моему мнению|на мой взгляд|по-моему
i choose: выбираю|я выбираю|предпочитаю|я предпочитаю
i think: я считаю, что|я думаю, что|считаю, что
so: поэтому|следовательно|итак|таким образом|значит|в итоге
overall: в целом
clearly: явно|значительно|немного|намного|гораздо|чуть|заметно
both: оба
both answers: оба ответа
equally: одинаково|в равной степени
good: хороши|хорошие|полезны|плохи|верны
equal: равны|равноценны|эквивалентны|равнозначны
tie: ничья
because: потому что|так как|поскольку|ведь
that: что
but: но|однако
-: не|нет|но|однако|хотя|если|ни|возможно|может|менее|неверно|хуже
"""
ARABIC = """
answer: الإجابة|الاجابة|إجابة|المساعد|الرد|الخيار
first: الأولى|الأول
second: الثانية|الثاني
is: هي|هو
better: أفضل|الأفضل
than: من
are equal: متساويتان|متكافئتان|متعادلتان
equal: متساوية
both answers: كلتا الإجابتين|كلا الإجابتين|الإجابتان
tie: تعادل|التعادل
verdict: الحكم|القرار|النتيجة|الخلاصة|الاختيار
final: النهائي|النهائية
wins: تفوز|يفوز
winner: الفائز
i choose: أختار
so: لذلك|إذن|وبالتالي|لذا|بالتالي
because: لأن|لأنها|لأنه
but: لكن
-: لا|ليس|ليست|لكن|غير|إذا|ربما|لم|أقل
"""
HINDI = """
answer: उत्तर|जवाब|प्रतिक्रिया|विकल्प
first: पहला|पहली
second: दूसरा|दूसरी
better: बेहतर|अधिक उपयोगी|श्रेष्ठ|ज़्यादा अच्छा
-than: से
is: है|हैं
both: दोनों
equally: समान रूप से|एक समान
good: अच्छे|सही
equal: बराबर|समान
tie: बराबरी|टाई|ड्रॉ
verdict: निर्णय|फैसला|निष्कर्ष|परिणाम
final: अंतिम
winner: विजेता
my: मेरा|मेरी
so: इसलिए|अतः
because: क्योंकि
but: लेकिन|परंतु
-: नहीं|लेकिन|परंतु|यदि|अगर|शायद|कम|गलत
"""
CHINESE = """
better: 更准确|更有用|更具帮助
are equal: 相同|相等|差不多
second: 第二个|第二個
first: 第一个|第一個
answer: 答案|回答|选项|選項|助手|回复|回覆|模型|响应|回應
answer 1: 第一个答案|第一个回答|第一个选项|第一个助手|第一个回复|第一個答案|第一個回答
answer 2: 第二个答案|第二个回答|第二个选项|第二个助手|第二个回复|第二個答案|第二個回答
better: 更好|较好|較好|更优|更佳|更优秀|更胜一筹|略胜一筹|更有帮助|更出色|更为出色|更强|更好一些|更好些
best: 最佳|最好
is worse than: 不如|劣于|差于|逊于
beats: 优于|好于|胜过|優於
wins: 胜出|获胜|赢|胜
than-: 比
is: 是|为|判为|判定为
the: 的|了|都|要|也|,
clearly: 明显|明顯|稍|略|稍微|略微|显然|显著|稍稍|整体
both answers: 两个答案|两个回答|两者|二者|两个助手|兩個回答|两个回复|两份回答|两个回答都
answer 1 and 2: 答案1和答案2|回答1和回答2|答案1与答案2|回答1与回答2|选项1和选项2|助手A和助手B|回答A和回答B
are equally good: 一样好|同样好|不相上下|难分高下|难分伯仲|旗鼓相当|质量相当|同样出色|一样优秀
tie: 平局|平手|打平
verdict: 判断|判斷|判定|裁决|裁決|结论|結論|结果|結果|评判|評判|评价|評價|选择|選擇
winner: 胜者|勝者|赢家|获胜者|优胜者
final: 最终|最終|最后|最後
my: 我的
i choose: 我选择|我选|选择|选|我會選擇
i think: 我认为|我認為|我觉得|认为
so: 因此|所以|综上|综上所述|总的来说|总体而言|总体来看|总之|因而|故|整体而言|總之
because: 因为|由于|因為
but: 但|但是|不过
-: 不|没|無|但|然而|错|如果|若|可能|缺|未|误|第一|第二
"""
JAPANESE = """
answer: 回答|アシスタント|応答|答え|選択肢
answer 1: 1番目の回答|最初の回答|第一の回答
answer 2: 2番目の回答|第二の回答
better: 良い|よい|優れている|優れています|優れていました|優れていると判断します
better: 優れていると思います|優れていると考えます|優れていると言えます|良いと思います|勝っている|勝っています
better: より良い|より優れている|より優れています|良かった
-than: より|よりも
wins: の勝ちです|の勝利です|の勝ち|の勝利|勝ち|勝利
is: です|だ|である|でした
the: が|は|も|の方が|のほうが|の方は|の|を選びます|を選択します|を選ぶ|を推します
clearly: 明らかに|やや|わずかに|少し|はるかに
overall: 全体的に|総合的に|全体として
verdict: 判定|結論|評価|判断|結果
winner: 勝者
final: 最終|最終的な
so: したがって|よって|そのため|以上より|以上から|結論として|従って|以上のことから
both answers: 両方の回答|どちらの回答も|両者|2つの回答|両回答|どちらも
are equal: 同等|互角|同程度
are equally good: 同程度に優れています|同様に優れています|同じくらい良い|同じくらい優れています
tie: 引き分け|同点
because: なぜなら|なぜなら、
but: しかし
-: ない|ません|しかし|ただし|もし|が、|誤
"""
KOREAN = """
answer: 답변|응답|어시스턴트|선택지|모델
answer 1: 첫 번째 답변|첫번째 답변|첫 번째 응답
answer 2: 두 번째 답변|두번째 답변|두 번째 응답
better: 더 좋습니다|더 낫습니다|더 우수합니다|더 뛰어납니다|더 좋다
better: 더 낫다|더 우수하다|더 나은|더 좋은|더 낫다고 판단합니다
-than: 보다
wins: 승리|승|이깁니다|의 승리
winner: 승자
is: 입니다|이다
the: 이|가|은|는|을|를|의|,
clearly: 훨씬|약간|조금|명확히
overall: 전반적으로|전체적으로|종합적으로
verdict: 판정|결론|결과|평가|판단|선택|선택합니다
final: 최종|최종적인
so: 따라서|그러므로|결론적으로|종합하면
both answers: 두 답변|두 답변 모두|둘 다|두 답변은
are equal: 동등합니다|비슷합니다|동등하게 우수합니다
are equally good: 똑같이 좋습니다|모두 훌륭합니다
tie: 무승부|동점
because: 왜냐하면
but: 하지만|그러나
-: 않|없|하지만|그러나|만약|못
"""
SWEDISH = """
answer: svar
the: det
first: första|första svaret
second: andra|andra svaret
is: är
better: bättre|starkare
best: bäst|bästa
than: än
wins: vinner
winner: vinnare
verdict: omdöme|slutsats|utslag
both answers are: båda svaren är
equally: lika
good: bra
tie: oavgjort
so: därför|alltså
because: eftersom|för att
but: men
-: inte|ingen|men|om|kanske|mindre
"""
DANISH = """
answer: svar
first: første
second: andet|andre
is: er
better: bedre
best: bedst|best
than: end|enn
wins: vinder|vinner
winner: vinder|vinner
verdict: konklusion|konklusjon|dom
both answers are: begge svar er|begge svarene er
equally: lige|like
good: gode
tie: uafgjort|uavgjort
so: derfor
because: fordi
but: men
-: ikke|ingen|men|hvis|måske|kanskje|mindre
"""
CZECH = """
answer: odpověď|odpovědi
first: první
second: druhá
is: je
better: lepší
best: nejlepší
than: než
wins: vyhrává
winner: vítěz
verdict: verdikt|závěr
both answers are: obě odpovědi jsou
equally: stejně
good: dobré
tie: remíza
so: proto|takže
because: protože
but: ale
-: ne|není|ale|však|pokud|možná|méně
"""
UKRAINIAN = """
answer: відповідь
first: перша
second: друга
is: є
better: краща|кращою
than: ніж|за
wins: перемагає
winner: переможець
verdict: вердикт|висновок|підсумок
both answers are: обидві відповіді
equally: однаково
good: хороші
tie: нічия
so: тому|отже
because: тому що|оскільки|бо
but: але
-: не|але|однак|якщо|можливо|менш
"""
INDONESIAN = """
answer: jawaban|respons
first: pertama
second: kedua
is: adalah
better: lebih baik|terbaik
than: daripada|dari
wins: menang
winner: pemenang
verdict: keputusan|kesimpulan|putusan
both answers are: kedua jawaban
equally: sama-sama
good: baik
tie: seri
so: jadi|oleh karena itu
because: karena
but: tetapi|namun
-: tidak|bukan|tetapi|namun|jika|mungkin|kurang
"""
VIETNAMESE = """
answer: câu trả lời|phản hồi
first: thứ nhất|đầu tiên
second: thứ hai
is: là
better: tốt hơn|hay hơn|tốt nhất
than-: so với
verdict: kết luận|phán quyết
winner: người thắng
both answers are: cả hai câu trả lời|cả hai câu trả lời đều
equally good: tốt như nhau
tie: hòa
so: do đó|vì vậy
because: vì|bởi vì
but: nhưng
-: không|nhưng|nếu|có thể|kém|chưa
"""
