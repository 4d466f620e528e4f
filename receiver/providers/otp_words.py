"""The words by which :mod:`receiver.providers.otp_text` recognises a code, in some forty languages.

Words are compared *folded*: in lower case and, in Latin, Greek and Cyrillic, without accents,
because many senders leave them out. Languages that are written without spaces, or whose words take
prefixes, have phrases instead, which are looked for anywhere.
"""

from __future__ import annotations

import re
from typing import Final

from receiver.providers.plain_text import fold


def compile_folded(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for folded text; its letters beyond ASCII are folded, too."""
    return re.compile("".join(c if c.isascii() else fold(c) for c in pattern))


# Words for a one-time code.
CODE_WORDS: Final = frozenset(
    fold(
        "code codes otp otc pin tan mtan smstan password passwords passcode passcodes passkey "
        "onetime verification token 2fa secret passwort kennwort bestätigungsnummer mot "
        "motdepasse código códigos clave contraseña contrasenya contrasinal senha chave "
        "codice codici codi chiave sleutel wachtwoord toegangscode lösenord kod koden kode "
        "kodekan kodon passord adgangskode engangskode koodi koodin koodisi tunnusluku "
        "salasana vahvistuskoodi kood parool kods koda kodu parole kodas kodą kodo "
        "slaptažodis kodem kody kodzie hasło hasła hasłem kód kódem kódu heslo hesla kódja "
        "kódod kódot jelszó jelszava kodi kodin kodit fjalëkalimi lozinka lozinku lozinke "
        "lozinki tac otac mpin kodia šifra šifru geslo cod codul codului parola parolă "
        "parolanız parolan şifre şifreniz şifresi şifren kodunuz kodun kodunu parol paroli "
        "sandi kata-sandi laluan msimbo nenosiri κωδικός κωδικό κωδικού κωδικος κωδ "
        "συνθηματικό код кода коду кодом коды кодът кодот кодъ пароль пароля паролем паролю "
        "парола лозинка лозинку шифра шифру құпиясөз купиясоз пинкод пин кодекс-не kóði "
        "kóðinn lykilorð kodea pasahitza kwọdu koodhka kodkan kodom kodama kodikos kodiko "
        "otpkodo кодыңыз кодын кодты uthibitisho ithibati kodingiz kodini parolingiz parolni "
        "lozinkom шифром лозинком einmalkennwort wagwoord uxabaxaba msimbo-yako"
    ).split()
)
# Words that stand for a code in some messages, and for other things in others.
MAYBE_WORDS: Final = frozenset(
    fold(
        "lautet lauten key pass passe number nummer numéro número schlüssel nøkkel nyckel "
        "klucz ключ verify verifica confirm login signin"
    ).split()
)
# Words that tell the reader to enter a code.
VERB_WORDS: Final = frozenset(
    fold(
        "use using enter type input submit insert provide verwenden verwende nutzen nutze "
        "eingeben gib geben utilisez utiliser utilise saisissez saisir saisis entrez entrer "
        "tapez composez usa usar utiliza utilice introduce introduzca ingresa ingrese teclea "
        "teclee digita digite escribe escriba pon informe insira utilize coloque inserisci "
        "inserire utilizza digitare digiti inserisca gebruik voer vul ange använd använda "
        "skriv bruk brug indtast tast użyj wpisz podaj wprowadź zadejte zadaj použijte "
        "použite írja adja használja introduceți introduceti folosiți folositi utilizați "
        "unesite upišite vnesite koristite girin giriniz kullanın kullanınız giriş girmek "
        "masukkan masukan gunakan ketik guna nhập nhap ilagay gamitin weka tumia introduza "
        "insira-o introduceti-l syötä käytä anna potvrdte potvrďte vložte vlozte thibitisha "
        "ingiza bestätigen sisesta kasuta ievadiet izmantojiet įveskite naudokite εισάγετε "
        "εισαγάγετε χρησιμοποιήστε πληκτρολογήστε введите введи используйте используй укажите "
        "наберите введіть використайте використовуйте вкажіть въведете використвайте унесите "
        "енгізіңіз увядзіце"
    ).split()
)
# After one of these, a word for a code means another kind of code: "promo code".
OTHER_CODES: Final = frozenset(
    fold(
        "promo promotion promotional discount coupon voucher gift referral invite invitation "
        "zip postal post area country dialing bar qr source dress error status sort swift bic "
        "iban tax vat promocional descuento cupon rabatt gutschein rabat znizkowy promocyjny "
        "промо промокод скидку скидки скидка купон почтовый remise parrainage sconto desconto "
        "indirim indirimi"
    ).split()
)
# Compounds that mean another kind of code.
OTHER_CODE_WORDS: Final = frozenset(
    fold(
        "barcode postcode zipcode promocode qrcode decode encode unicode geocode sourcecode "
        "promocod postleitzahl gutscheincode rabattcode rabattkod promokode promokod промокод "
        "штрихкод voucherpromo kortingscode vouchercode promotiecode actiecode"
    ).split()
)
# What stands right before a number that is no code.
NUMBER_OF_WORDS: Final = frozenset(
    fold(
        "expediente expte dossier aktenzeichen az emp employee staff saldo balance total sum "
        "amount solde kontostand баланс сумма сума bakiye folio invoiceno booking-ref parcel "
        "paket colis paczka pakke pakket balik csomag csomagja колис посылка посылки kirim "
        "resi guía guia envio envío sendung sendungsnummer sendungsnr spårning kolli zásielka "
        "zásilka otprema zahtev вид plate cab kab room order orders ref reference referenz "
        "reference: transaction txn trx account acct acc konto kto member membership customer "
        "client user userid username ticket case invoice bill booking reservation flight "
        "table apt apartment unit policy contract tracking package shipment shipping id no nr "
        "num nbr number # № nº n° so from sender version model build v iphone galaxy pixel "
        "windows android ios step article section chapter gate seat row limit max maximum "
        "until street st suite box ext extension zip postcode code-postal device card cards "
        "karte carte tarjeta cartão cartao carta kart kartı kaart kort kortet kartu karta "
        "kartą карта карты карте картой картка картки ending ends ended endend endet "
        "endziffern endnummer finissant terminada terminado terminant terminando termina "
        "końcówce končící végű slutar pedido orden factura cuenta cliente conta fatura ordine "
        "conto bestellung bestellnr bestellnummer auftrag rechnung kunde kundennummer "
        "kundennr vorgang commande compte facture numéro bestelling rekening klant ordre "
        "faktura kundenr zamówienie zamówienia konta klienta faktury objednávka objednávky "
        "účtu rendelés számla comanda contul заказ заказа заказу заказе счет счёт счета счёта "
        "договор договора договору номер номера номеру заявка заявки абонент замовлення "
        "рахунок рахунку поръчка сметка sipariş siparişi hesap müşteri kartınız no'lu "
        "numaralı nolu giao-dich don hang tai-khoan pesanan nomor nombor akaun transaksi "
        "παραγγελία λογαριασμός κάρτα"
    ).split()
)
# What stands some words before a number to call or to write to.
CONTACT_WORDS: Final = frozenset(
    fold(
        "help hilfe ayuda aide aiuto ajuda pomoc pomoč pomoci помощь справки інфо info "
        "infolinia infoline baja al melding rdv abmelden afmeld afmelden leiratkozas "
        "leiratkozás lapor report melde meld antworte antworten sende senden schick schicken "
        "call dial text sms reply send contact phone tel telephone hotline helpline support "
        "whatsapp ring fax stop unsubscribe appelez appeler llame llama llamar ligue ligar "
        "chiama chiamare anrufen rufen telefon telefono teléfono bel bellen zadzwoń zavolejte "
        "позвоните звоните звонили тел телефон телефона телефону телефоном отправьте "
        "телефонуйте зателефонуйте arayın arayınız hubungi goi gọi lien lienhe svara svar"
    ).split()
)
# What stands before a code that is no longer valid.
OLD_WORDS: Final = frozenset(
    fold(
        "previo previa old previous former earlier expired alter alten alte bisheriger ancien "
        "précédent anterior antiguo viejo antigo vecchio precedente oude vorige gamla gammel "
        "gamle stary poprzedni starý předchozí régi vechi vechiul старый прежний предыдущий "
        "старого старий попередній eski önceki lama cũ παλιός"
    ).split()
)
# The same of other languages: words for a code,
CODE_PHRASES: Final = (
    "验证码", "驗證碼", "校验码", "校驗碼", "动态码", "動態碼", "动态密码", "动态口令", "口令",
    "密码", "密碼", "確認碼", "确认码", "认证码", "認證碼", "激活码", "安全码", "安全碼",
    "识别码", "检验码", "授权码", "提取码", "随机码", "登录码", "代码", "代碼", "一次性密碼",
    "識別碼", "授權碼", "コード", "パスワード", "認証番号", "暗証番号", "確認番号", "パスコード",
    "ワンタイム", "認証キー", "確認キー", "合言葉", "인증번호", "인증 번호", "인증코드",
    "인증 코드", "확인코드", "확인 코드", "보안코드", "보안 코드", "비밀번호", "코드", "승인번호",
    "확인번호", "암호", "รหัส", "โอทีพี", "ลหัด", "លេខកូដ", "កូដ", "ကုဒ်", "လျှို့ဝှက်", "ລະຫັດ",
    "कोड", "ओटीपी", "पासवर्ड", "पिन", "পাসওয়ার্ড", "কোড", "ওটিপি", "পিন", "குறியீடு",
    "கடவுச்சொல்", "ஓடிபி", "కోడ్", "పాస్వర్డ్", "ఓటిపి", "ಕೋಡ್", "ಒಟಿಪಿ", "കോഡ്", "ഒടിപി", "કોડ",
    "ઓટીપી", "ਕੋਡ", "ਓਟੀਪੀ", "කේතය", "رمز", "كود", "الكود", "كلمة المرور", "كلمة السر",
    "كلمة مرور", "الرقم السري", "شفرة", "کد", "گذرواژه", "رمزعبور", "پسورد", "کوڈ", "پن", "קוד",
    "סיסמ", "קודה", "კოდ", "պարոլ", "կոդ", "գաղտնաբառ", "ኮድ", "የይለፍ",
)  # fmt: skip
# words that tell the reader to enter one,
VERB_PHRASES: Final = (
    "输入", "輸入", "填写", "使用", "入力", "ご利用", "입력", "사용", "กรอก", "ใช้", "ป้อน",
    "दर्ज", "उपयोग", "ব্যবহার", "أدخل", "ادخل", "استخدم", "إدخال", "استعمل", "وارد", "استفاده",
    "הזן", "הזינו", "הקש", "השתמש", "შეიყვანეთ", "մուտքագրեք", "درج", "استعمال",
)  # fmt: skip
# words before numbers that are no codes or are to be called,
NUMBER_OF_PHRASES: Final = (
    "订单", "訂單", "单号", "單號", "尾号", "尾號", "末四位", "后四位", "編號", "编号", "卡号",
    "账号", "帳號", "详询", "詳詢", "致电", "致電", "拨打", "撥打", "撥", "拨", "回复", "回覆",
    "退订", "退訂", "送り状", "運單", "快递", "追跡", "송장", "기사", "상담", "수신거부", "لغو",
    "للإلغاء", "לדיווח", "להסרה", "电话", "電話", "客服", "热线", "熱線", "咨询", "房间",
    "注文番号", "会員", "電話番号", "お問い合わせ", "口座", "カード", "末尾", "下4桁", "주문번호",
    "계좌", "카드", "문의", "고객센터", "전화", "끝자리", "운송장", "رقم الطلب", "رقم الحساب",
    "تنتهي", "المنتهية",
    "الحساب", "بطاقة", "اتصل", "هاتف", "رقم", "הזמנה", "חשבון", "כרטיס", "טלפון", "מספר", "บัญชี",
    "โทร", "บัตร", "คำสั่งซื้อ", "खाता", "कार्ड", "नंबर",
)  # fmt: skip
# and words before a code that is no longer valid.
OLD_PHRASES: Final = (
    "旧", "舊", "原验证码", "原驗證碼", "原密码", "之前", "以前", "이전", "القديم", "הישן",
    "เก่า", "पुराना",
)  # fmt: skip
# Compounds end in these: Bestätigungscode, engångskod, verificatiecode, vahvistuskoodi.
CODE_ENDINGS: Final = tuple(
    fold(
        "code codes kode koden kodi kod kodu koodi koodisi koodin kood passwort kennwort "
        "wachtwoord passcode kodunuz kodas kods lösenord код кода пароль nummer-code"
    ).split()
)
# Vietnamese without its marks: "ma" alone is a word of other languages, too.
VIETNAMESE: Final = compile_folded(
    r"\bma (?=xac|otp|dang|kich|bao|pin|cua|so|la\b|giao|dat|truy|code|:|\d)|\bmat khau\b|"
    r"\bma:"
)
# Any character for "code" that is no part of "number", "QR code", "discount code" and the like.
CHINESE: Final = compile_folded(
    r"(?<![\d号號扫掃维維条條形折惠件货貨起尾数數邮郵])[码碼](?![头頭])"
)
# After a word for a code: which other kind of code it means, "code postal".
OTHER_CODE_AFTER: Final = compile_folded(
    r" (?:de |del |di |da |d'|of )?(?:barras|barre|barra|postal\w*|promo\w*|descuento|"
    r"desconto|sconto|reduction|remise|reducere|area|pais|error|retrait|ritiro|recogida|"
    r"odbioru|rabatow\w*|pocztow\w*|товара|получения|скидк\w*)\b"
)
# What says that the code before it is not valid any more,
NO_LONGER: Final = compile_folded(
    r"no longer|cancel|expired|invalid|not valid|revoked|replaced|abgelaufen|ungultig|"
    r"a expire|annul|anul|n'est plus|caduc|ha expirad|expirou|scadut|piu' valid|piu valid|"
    r"nao e mais|ya no|verlopen|niet meer geldig|wygas|straci\w waznosc|niewazn|neplat|"
    r"ervenytel|lejart|недейств|истек|отмен|не действ|скасован|gecersiz|iptal|hukmu yok|"
    r"da het han|khong con|khong hop le|kedaluwarsa|tidak berlaku|utgat|utlopt|udlobet|"
    r"vanhentu|失效|过期|過期|作废|作廢|無効|만료|취소|ملغى|منتهي|لم يعد|בוטל|אינו בתוקף|"
    r"หมดอายุ|ยกเลิก|रद्द|समाप्त|باطل|منقضی|বাতিল"
)
# and that the code after it is the new one.
NEW: Final = compile_folded(
    r"\b(?:new|neuer?|neuen|neue|nouveau|nouvelle|nuev[oa]|nov[oa]|novy|nove|nuov[oa]|nieuwe?|"
    r"ny|nya|nytt|uusi|nowy|nowe|новый|нового|новий|нов|yeni|moi|baru|nou|noul|uj|νεος|"
    r"νεο)\W+(?:\w+\W+){0,5}$|新(?:的)?[^\d]{0,12}$|새[^\d]{0,12}$|الجديد[^\d]{0,10}$|"
    r"החדש[^\d]{0,10}$|ใหม่[^\d]{0,10}$|नया[^\d]{0,14}$|जدید[^\d]{0,10}$"
)
# Sentences with these warn the reader; they tell no code.
NEVER: Final = compile_folded(
    r"\b(?:never|nie(?:mals)?|jamais|aucun|nunca|jamas|mai|nooit|aldrig|aldri|nigdy|nikdy|"
    r"soha|niciodata|никогда|ніколи|никому|нікому|никога|asla|hicbir|tidak pernah|"
    r"jangan pernah|khong bao gio|ποτε|koskaan|niekada|nekad)\b|不会|不會|绝不|絕不|切勿|勿向|"
    r"しません|ありません|ません|절대|않습니다|لن|لا تشارك|أبدا|לעולם לא|לא יבקש|هرگز|کبھی|"
    r"कभी|কখনো|ไม่มี|จะไม่"
)
# Messages about discounts, parcels and doors: their codes open no account.
OTHER_PURPOSE: Final = compile_folded(
    r"\d ?% ?(?:off|rabat|de |auf|su |на |kedv|indirim|sleva|korting|taniej|znizk|reduc|zniz|"
    r"alen|rabatt|descuent|descont|hos )|-\d{1,3} ?[%€$£]|\b2x1\b|\bstop au \d|"
    r"\b(?:discount|voucher|coupon|"
    r"promo\w*|cashback offer|sale ends|soldes|remise|rabatt?\w{0,6}|gutschein\w*|descuento|"
    r"cupon\w*|desconto|cupom|sconto|buono|korting\w*|kupon\w*|znizk\w*|slev[ayu]|"
    r"kedvezmeny\w*|reducere\w*|indirim\w*|скидк\w*|промокод\w*|купон\w*|знижк\w*|отстъпк\w*|"
    r"alennus\w*|diskon|khuyen mai|giam gia|ma giam|εκπτωσ\w*|popust\w*|zlav\w*|nuolaid\w*|"
    r"tickets?|booking (?:confirmed|code|ref\w*|no)|at the door|"
    r"(?:new|neuen?|nouvelle|nueva|nuova|nova|nieuwe|nye|нов\w{2,3}) (?:card|karte|carte|"
    r"tarjeta|carta|kaart|kort|карт\w{1,2}))\b|\bgiam \d|"
    r"折扣|優惠|优惠|現折|满减|滿減|促销|割引|クーポン|할인|쿠폰|تخفیف|خصم|كوبون|"
    r"הנחה|קופון|छूट|पार्सल|पिन कोड|ส่วนลด|ছাড়|\b(?:pick-?up|locker|parcel|collect your|"
    r"colis|point relais|retrait|paczk\w*|paczkom\w*|skrytk\w*|odbior\w*|постамат\w*|"
    r"получени\w*|посылк\w*|посилк\w*|пункт выдачи|pakke\w{0,3}|pakk|afhentning\w*|hentekode|"
    r"pakkeboks|pakkeautomat\w*|abholcode|abhol\w*|packstation|paketbox|paket\w{0,6}|"
    r"balik\w{0,3}|vyzved\w*|don hang|giao hom|giao hang|zasilk\w*|zasielk\w*|csomag\w*|"
    r"coletul\w*|recogida|retirada|ritiro|pacco|ophaalcode|pakketpunt|uthamtning\w*|"
    r"noutokoodi|paketti\w*|uksekood|door code|gate code|entry code|turcode|porta|digicode|"
    r"teslim\w*|kargo\w*|δεμα|pickupkod|siuntin\w*|sutijum\w*|posiljk\w*)\b|取件码|取件碼|"
    r"取货码|取貨|快递柜|快遞|包裹|宅配|受取(?!人)|お荷物|택배|픽업|공동현관|قفل|الطرد|טרד|"
    r"חבילה|พัสดุ|\b(?:zip|postal|poczt\w*|postleitzahl|почтов\w*)\b"
)
# Messages about accounts and payments.
ACCOUNT_PURPOSE: Final = compile_folded(
    r"\b(?:otp|one-?time|verif\w*|authent\w*|confirm your|log ?in|sign ?in|signin|login|2fa|"
    r"passcode|security code|bestatigungs?\w*|anmeld\w*|verific\w*|autentic\w*|connexion|"
    r"inici\w{1,4} sesi\w*|acceso|inlog\w*|weryfikac\w*|logowan\w*|overen\w*|prihlas\w*|"
    r"подтвержд\w*|входа?|авторизац\w*|підтвердж\w*|dogrulama|giris|onay|xac (?:minh|thuc|"
    r"nhan)|verifikasi|vahvist\w*|bekraft\w*|bekreft\w*|επιβεβαιωσ\w*|ταυτοποι\w*|"
    r"megerosit\w*|einmal\w*|sms-?tan|mtan|tan|passwor[dt]|kennwort|contrasena|senha|"
    r"парол[ья]|parola|sifre)\b|验证码|驗證碼|校验码|动态|認証|ワンタイム|パスワード|인증|"
    r"التحقق|אימות|ยืนยัน|सत्यापन|تایید|تصدیق|যাচাই"
)
MONTH: Final = (
    r"(?:jan|feb|mar|apr|may|mai|maj|jun|jul|aug|sep|oct|okt|nov|dec|dez|des|ene|abr|ago|dic|"
    r"fev|avr|aou|set|out|gen|mag|giu|lug|ott|янв|фев|мар|апр|мая|май|июн|июл|авг|сен|окт|ноя|"
    r"дек|січ|лют|берез|квіт|трав|черв|липн|серп|верес|жовт|листоп|груд|ocak|subat|mart|nisan|"
    r"mayis|hazir|temmuz|agust|eylul|ekim|kasim|aralik|stycz|luteg|kwiet|czerw|lipc|sierp|"
    r"wrzes|pazdz|listop|grudz|leden|ledna|unor|brez|dubn|kvet|cervn|cervenc|srpn|zari|rijn|"
    r"prosin)[^\W\d]{0,9}\.?"
)
CURRENCY: Final = (
    r"(?:eur|euros?|usd|gbp|chf|sek|nok|dkk|pln|czk|huf|ron|bgn|try|rub|uah|kzt|jpy|cny|rmb|"
    r"krw|inr|idr|myr|thb|vnd|php|brl|mxn|ars|cop|clp|pen|zar|ngn|kes|aed|sar|ils|cad|aud|nzd|"
    r"sgd|hkd|twd|dollars?|pounds?|pesos?|reais|real|rupees?|rupiah|ringgit|baht|lei|zl|"
    r"zlotych|kc|kr|ft|tl|lira|руб(?:\w{0,4})|р\.|грн|тг|тенге|лв|rs|rp|rm|дин|dong|vnd|d\b|"
    r"元|円|圓|원|บาท|درهم|ريال|جنيه|usdt|btc|eth|rsd|mxn|gel|amd|azn|uzs|kgs|mdl|isk|hrk|bam|"
    r"mkd|all|pkr|bdt|lkr|npr|egp|mad|tnd|dzd|jod|kwd|bhd|omr|qar|iqd|irr|lbp|ghs|tzs|ugx|etb|"
    r"xof|mmk|khr|lak|mnt|ton|tenge|ש\"?ח|שקל\w{0,3}|туман|تومان|ریال|سوم|so'm|som|manat|ден|ksh|sh|tk|taka)"
)
SIGN: Final = r"[$€£¥₹₽₴₺₩₫₪₦฿₱﷼₸]|r\$|us\$|rs\.?|inr|usd|eur|gbp|rp\.?|rm|zl"
UNIT: Final = (
    r"(?:min(?:ute|uten|uter|utter|utes|uti|utos|uut\w*|ut\w{0,3}|s)?|mins?|dakika\w*|phut|"
    r"phút|menit|minit|sec(?:ond\w*|s)?|sek(?:und\w*)?|seg(?:undos?)?|saniye\w*|giay|giây|"
    r"detik|h|hr|hrs|hours?|std|stunden?|heures?|horas?|ore|uur|uren|timmar|timer|tim|"
    r"godzin\w*|hodin\w*|óra|saat\w*|jam|gio|days?|tage?n?|jours?|dias?|giorni|dagen|dni|dnů|"
    r"gun|hari|ngay|weeks?|months?|years?|gb|mb|kb|km|kg|ml|cm|mm|%|points?|bonus|miles|"
    r"percent|мин\w*|сек\w*|час\w*|дн\w*|день|хв\w*|годин\w*|сут\w*|лет|раз|times?|attempts?|"
    r"characters?|digits?|-digit|λεπτ\w*|分钟|分鐘|分間|分|秒|小时|小時|時間|天|日間|日|次|位|"
    r"元|분|초|시간|일|자리|นาที|วินาที|ชั่วโมง|मिनट|دقيقة|دقائق|دقیقه|ثانية|דקות|დღე)"
)
