//! An invoice as PDF, on A4: laid out by hand, line by line, over as many pages as it takes. Fonts are embedded as subsets. Refuses to
//! leave out a line or to let a long name run over the edge.

use krilla::Document as PdfDocument;
use krilla::color::rgb;
use krilla::geom::{PathBuilder, Point};
use krilla::metadata::Metadata;
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, FillRule};
use krilla::surface::Surface;

use super::fonts::{BadFont, Fonts};
use super::{Document, SIMULATED};

/// A4, in points; and what is left free around the text.
const PAGE: (f32, f32) = (595.0, 842.0);
const MARGIN: f32 = 48.0;
const TEXT: f32 = 9.0;
const TITLE: f32 = 18.0;
const LEADING: f32 = 13.0;
/// Where the columns of numbers end, and the widths of the texts.
const QUANTITY_END: f32 = 390.0;
const PRICE_END: f32 = 470.0;
const AMOUNT_END: f32 = PAGE.0 - MARGIN;
const DESCRIPTION_WIDTH: f32 = 265.0;
const FACT_AT: f32 = MARGIN + 80.0;
/// Lines of one text: 500 characters wrapped at their narrowest.
const WRAPPED_MAX: usize = 60;

#[derive(Debug, thiserror::Error)]
pub enum PdfFault {
    #[error(transparent)]
    Font(#[from] BadFont),
    #[error("the page has no size")]
    Page,
    #[error("the PDF cannot be written: {0}")]
    Write(String),
}

/// What is drawn, in points from the top left.
enum Mark {
    Text {
        x: f32,
        y: f32,
        size: f32,
        text: String,
    },
    /// Ends at `x`.
    Number {
        x: f32,
        y: f32,
        text: String,
    },
    Rule {
        y: f32,
    },
}

pub fn pdf(document: &Document) -> Result<Vec<u8>, PdfFault> {
    let fonts = Fonts::open()?;
    let pages = lay_out(document, &fonts);
    let mut file = PdfDocument::new();
    file.set_metadata(Metadata::new().title(document.title()).language("en".to_owned()));
    let count = pages.len();
    for (number, marks) in (1_usize..).zip(pages) {
        let settings = PageSettings::from_wh(PAGE.0, PAGE.1).ok_or(PdfFault::Page)?;
        let mut page = file.start_page_with(settings);
        let mut surface = page.surface();
        for mark in &marks {
            draw(&mut surface, &fonts, mark);
        }
        let footer = format!("{} · page {number} of {count} · {SIMULATED}", document.title());
        draw(&mut surface, &fonts, &Mark::Text { x: MARGIN, y: PAGE.1 - MARGIN / 2.0, size: 7.0, text: footer });
        surface.finish();
        page.finish();
    }
    file.finish().map_err(|error| PdfFault::Write(format!("{error:?}")))
}

/// The marks of each page.
struct Layout {
    pages: Vec<Vec<Mark>>,
    marks: Vec<Mark>,
    y: f32,
}

impl Layout {
    /// Begins a new page where less than `height` is left on this one.
    fn make_room(&mut self, height: f32) {
        if self.y + height > PAGE.1 - MARGIN {
            self.pages.push(std::mem::take(&mut self.marks));
            self.y = MARGIN + LEADING;
        }
    }

    fn text(&mut self, x: f32, size: f32, text: &str) {
        self.marks.push(Mark::Text { x, y: self.y, size, text: text.to_owned() });
    }

    fn number(&mut self, x: f32, text: String) {
        self.marks.push(Mark::Number { x, y: self.y, text });
    }

    fn rule(&mut self) {
        self.marks.push(Mark::Rule { y: self.y - LEADING + 3.0 });
    }
}

fn lay_out(document: &Document, fonts: &Fonts) -> Vec<Vec<Mark>> {
    let mut layout = Layout { pages: Vec::new(), marks: Vec::new(), y: MARGIN + TITLE };
    layout.text(MARGIN, TITLE, &document.title());
    layout.y += LEADING * 2.0;
    for (label, value) in document.facts() {
        for (place, line) in wrap(fonts, &value, AMOUNT_END - FACT_AT, TEXT).iter().enumerate() {
            layout.make_room(LEADING);
            if place == 0 {
                layout.text(MARGIN, TEXT, label);
            }
            layout.text(FACT_AT, TEXT, line);
            layout.y += LEADING;
        }
    }
    layout.y += LEADING;
    layout.text(MARGIN, TEXT, "Description");
    layout.number(QUANTITY_END, "Quantity".to_owned());
    layout.number(PRICE_END, "Unit price".to_owned());
    layout.number(AMOUNT_END, format!("Amount ({})", document.invoice.currency));
    layout.y += LEADING * 1.3;
    layout.rule();
    for line in &document.lines {
        let description = wrap(fonts, &line.description, DESCRIPTION_WIDTH, TEXT);
        layout.make_room(LEADING);
        layout.number(QUANTITY_END, Document::exact(line.quantity));
        layout.number(PRICE_END, Document::exact(line.unit_price));
        layout.number(AMOUNT_END, document.amount(line.amount));
        for text in &description {
            layout.make_room(LEADING);
            layout.text(MARGIN, TEXT, text);
            layout.y += LEADING;
        }
    }
    layout.make_room(LEADING * 2.0);
    layout.y += LEADING * 0.3;
    layout.rule();
    layout.text(MARGIN, TEXT, "Total");
    layout.number(AMOUNT_END, format!("{} {}", document.amount(document.invoice.total), document.invoice.currency));
    layout.pages.push(layout.marks);
    layout.pages
}

/// Lines that fit into `width` points, broken at blanks, or inside a word that is too long for one.
fn wrap(fonts: &Fonts, text: &str, width: f32, size: f32) -> Vec<String> {
    let fits = |line: &str| fonts.width(line) * size <= width;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word;
        while !word.is_empty() && lines.len() <= WRAPPED_MAX {
            let Some(line) = lines.last_mut() else { break };
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if fits(&longer) {
                *line = longer;
                break;
            }
            if !line.is_empty() {
                lines.push(String::new());
                continue;
            }
            let taken = longest_fitting(word, &fits);
            let (head, rest) = word.split_at_checked(taken).unwrap_or((word, ""));
            head.clone_into(line);
            word = rest;
            lines.push(String::new());
        }
    }
    if lines.len() > 1 && lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// Bytes of the longest beginning that fits; at least one letter.
fn longest_fitting(word: &str, fits: &impl Fn(&str) -> bool) -> usize {
    let ends: Vec<usize> = word.char_indices().map(|(at, letter)| at + letter.len_utf8()).collect();
    let first = ends.first().copied().unwrap_or(word.len());
    let count = ends.partition_point(|end| word.get(..*end).is_some_and(fits));
    count.checked_sub(1).and_then(|last| ends.get(last).copied()).unwrap_or(first)
}

fn draw(surface: &mut Surface<'_>, fonts: &Fonts, mark: &Mark) {
    match mark {
        Mark::Text { x, y, size, text } => draw_text(surface, fonts, *x, *y, *size, text),
        Mark::Number { x, y, text } => {
            let width = fonts.width(text) * TEXT;
            draw_text(surface, fonts, x - width, *y, TEXT, text);
        }
        Mark::Rule { y } => draw_rule(surface, *y),
    }
}

fn draw_text(surface: &mut Surface<'_>, fonts: &Fonts, x: f32, y: f32, size: f32, text: &str) {
    let mut x = x;
    for piece in fonts.shape(text) {
        surface.draw_glyphs(Point::from_xy(x, y), &piece.glyphs, piece.font, &piece.text, size, false);
        x += piece.width * size;
    }
}

/// A thin filled strip over the width of the text.
fn draw_rule(surface: &mut Surface<'_>, y: f32) {
    let mut strip = PathBuilder::new();
    strip.move_to(MARGIN, y);
    strip.line_to(AMOUNT_END, y);
    strip.line_to(AMOUNT_END, y + 0.6);
    strip.line_to(MARGIN, y + 0.6);
    strip.close();
    let black = Fill { paint: rgb::Color::new(0, 0, 0).into(), opacity: NormalizedF32::ONE, rule: FillRule::default() };
    surface.set_fill(Some(black));
    if let Some(path) = strip.finish() {
        surface.draw_path(&path);
    }
}
