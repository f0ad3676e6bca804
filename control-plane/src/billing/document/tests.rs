//! Documents of any name: nothing runs in a spreadsheet or browser, every script is drawn, and what cannot be is seen.

use jiff::civil::date;
use krilla::text::Glyph as _;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::fonts::Fonts;
use super::*;
use crate::domain::invoice::LineKind;

fn document(names: &[&str]) -> Document {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let lines = names.iter().map(|name| LineRow {
        kind: LineKind::Overage,
        subscription: Some(Uuid::from_u128(1)),
        plan: None,
        month: Some(date(2026, 11, 1)),
        description: (*name).to_owned(),
        quantity: Decimal::new(2_345_000, 6),
        unit_price: Decimal::new(500_000, 6),
        amount: Decimal::new(1_170_000, 6),
        from: None,
        until: None,
    });
    let lines: Vec<LineRow> = lines.collect();
    let invoice = InvoiceRow {
        id: Uuid::from_u128(2),
        number: Some("INV-000042".to_owned()),
        consumer: Uuid::from_u128(3),
        consumer_name: names.first().map_or_else(String::new, |name| (*name).to_owned()),
        consumer_slug: "consumer".to_owned(),
        publisher: Uuid::from_u128(4),
        publisher_name: "Søren & Söhne".to_owned(),
        publisher_slug: "publisher".to_owned(),
        month: date(2026, 11, 1),
        period_start: at("2026-11-01T00:00:00Z"),
        period_end: at("2026-12-01T00:00:00Z"),
        time_zone: "Europe/Berlin".to_owned(),
        currency: "EUR".to_owned(),
        status: InvoiceStatus::Issued,
        total: Decimal::new(1_170_000 * i64::try_from(names.len()).unwrap(), 6),
        held_back: Vec::new(),
        fee_percent: Decimal::ZERO,
        fee: Decimal::ZERO,
        issued_at: Some(at("2026-12-01T01:00:00Z")),
        due_at: Some(at("2026-12-15T01:00:00Z")),
        paid_at: None,
        voided_at: None,
        version: 1,
        created_at: at("2026-12-01T01:00:00Z"),
        updated_at: at("2026-12-01T01:00:00Z"),
    };
    Document { invoice, lines }
}

#[test]
fn a_spreadsheet_gets_no_formula_and_keeps_commas_and_quotes() {
    let text =
        csv(&document(&["=HYPERLINK(\"http://x\")", "+1", "  -2+3", "@SUM(A1)", "\tx", "＝1", "a, \"b\"\nc", "plain"]));
    let rows: Vec<&str> = text.split("\r\n").collect();
    assert!(rows[1].contains("\"'=HYPERLINK(\"\"http://x\"\")\""), "{}", rows[1]);
    for (row, safe) in
        [(2, ",'+1,"), (3, ",'  -2+3,"), (4, ",'@SUM(A1),"), (5, ",'\tx,"), (6, ",'＝1,"), (8, ",plain,")]
    {
        assert!(rows[row].contains(safe), "{}", rows[row]);
    }
    assert!(text.contains("\"a, \"\"b\"\"\nc\""), "{text}");
    assert!(text.contains(",2.345,0.5,1.17,EUR,") && text.contains(",9.36,EUR,"), "{text}");
}

#[test]
fn a_browser_gets_no_markup_from_a_name() {
    let page = html(&document(&["<script>alert('1')</script> & \"x\""]));
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;"));
    assert!(page.contains("Søren &amp; Söhne") && page.contains("1.17 EUR") && page.contains(SIMULATED));
    assert!(page.contains("2026-11-01 01:00"), "the publisher's zone");
}

/// The name of each script, and its own name in it.
const NAMES: &[(&str, &str)] = &[
    ("latin", "Łukasz Ťapák & Søren"),
    ("greek", "Ελληνική"),
    ("cyrillic", "Українська"),
    ("armenian", "Հայերեն"),
    ("georgian", "ქართული"),
    ("hebrew", "עברית"),
    ("arabic", "العربية"),
    ("devanagari", "हिन्दी"),
    ("bengali", "বাংলা"),
    ("gurmukhi", "ਪੰਜਾਬੀ"),
    ("gujarati", "ગુજરાતી"),
    ("oriya", "ଓଡ଼ିଆ"),
    ("tamil", "தமிழ்"),
    ("telugu", "తెలుగు"),
    ("kannada", "ಕನ್ನಡ"),
    ("malayalam", "മലയാളം"),
    ("sinhala", "සිංහල"),
    ("thai", "ภาษาไทย"),
    ("lao", "ລາວ"),
    ("myanmar", "မြန်မာ"),
    ("khmer", "ខ្មែរ"),
    ("ethiopic", "አማርኛ"),
    ("chinese", "中文公司"),
    ("japanese", "日本語ひらがなカタカナ"),
    ("korean", "한국어"),
];

#[test]
fn every_script_is_drawn_with_real_glyphs() {
    let fonts = Fonts::open().unwrap();
    for (script, name) in NAMES {
        let pieces = fonts.shape(name);
        let missing =
            pieces.iter().flat_map(|piece| &piece.glyphs).filter(|glyph| glyph.glyph_id().to_u32() == 0).count();
        assert_eq!(missing, 0, "{script}");
        let drawn: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert!(!drawn.contains("[U+"), "{script}: {drawn}");
        assert!(pieces.iter().map(|piece| piece.width).sum::<f32>() > 0.5, "{script}");
    }
}

#[test]
fn a_letter_without_a_font_is_seen_as_its_code_point() {
    let fonts = Fonts::open().unwrap();
    let drawn: String = fonts.shape("a\u{12000}b\u{7}c").iter().map(|piece| piece.text.clone()).collect();
    assert_eq!(drawn, "a[U+12000]b c");
}

#[test]
fn right_to_left_text_stands_in_visual_order_beside_numbers() {
    let fonts = Fonts::open().unwrap();
    let pieces: Vec<String> = fonts.shape("שלום 123 abc").iter().map(|piece| piece.text.clone()).collect();
    let place = |text: &str| pieces.iter().position(|piece| piece.contains(text)).unwrap();
    assert!(place("abc") < place("123") && place("123") < place("שלום"), "{pieces:?}");
}

#[test]
fn a_long_invoice_takes_as_many_pages_as_it_needs() {
    let names: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
    let long = "word ".repeat(90) + &"x".repeat(50);
    let mut many: Vec<&str> = names.iter().copied().cycle().take(150).collect();
    many.push(&long);
    let bytes = pdf(&document(&many)).unwrap();
    assert!(bytes.starts_with(b"%PDF-") && bytes.len() < 2_000_000, "{} bytes", bytes.len());
    let small = pdf(&document(&["plain"])).unwrap();
    assert!(small.len() < 60_000, "only what is used is embedded: {} bytes", small.len());
    let names = |bytes: &[u8], name: &[u8]| bytes.windows(name.len()).filter(|window| *window == name).count();
    // The tree of pages has this name in it, too.
    let pages = |bytes: &[u8]| names(bytes, b"/Type/Page") + names(bytes, b"/Type /Page");
    assert!(pages(&bytes) > pages(&small) + 2, "{} and {}", pages(&bytes), pages(&small));
}

/// `APIHUB_LOOK_AT=<folder> cargo test -p apihub-control-plane --lib to_look_at -- --ignored`, then `pdftoppm -png invoice.pdf page`.
#[test]
#[ignore = "writes an invoice of all scripts to a folder, for people"]
fn an_invoice_to_look_at() {
    let folder = std::path::PathBuf::from(std::env::var_os("APIHUB_LOOK_AT").expect("a folder"));
    let mixed = ["شركة المثال 123 GmbH (Berlin)", "中文公司 有限公司", "हिन्दी कंपनी प्राइवेट लिमिटेड", "עברית 45% Ltd."];
    let names: Vec<&str> = mixed.into_iter().chain(NAMES.iter().map(|(_, name)| *name)).collect();
    let document = document(&names);
    std::fs::write(folder.join("invoice.pdf"), pdf(&document).unwrap()).unwrap();
    std::fs::write(folder.join("invoice.html"), html(&document)).unwrap();
}
