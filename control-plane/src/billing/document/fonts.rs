//! Text of any script as glyphs: cut by direction and by the font that has the letters, shaped, measured. A letter that no font has is
//! shown as its code point. Draws nothing.

use krilla::text::{Font, GlyphId, KrillaGlyph};
use rustybuzz::{Direction, Face, UnicodeBuffer};
use unicode_bidi::BidiInfo;

/// In the order in which they are asked for a letter; README.md beside them says whose they are.
const FILES: &[&[u8]] = &[
    include_bytes!("../../../fonts/DejaVuSans.ttf"),
    include_bytes!("../../../fonts/NotoSansDevanagari-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansBengali-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansGurmukhi-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansGujarati-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansOriya-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansTamil-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansTelugu-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansKannada-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansMalayalam-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansSinhala-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansThai-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansMyanmar-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansKhmer-Regular.ttf"),
    include_bytes!("../../../fonts/NotoSansEthiopic-Regular.ttf"),
    include_bytes!("../../../fonts/NanumSquareRoundR.ttf"),
    include_bytes!("../../../fonts/DroidSansFallbackFull.ttf"),
];

/// A font that is built in and cannot be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("font {0} cannot be read")]
pub struct BadFont(usize);

/// The fonts, opened.
pub(super) struct Fonts {
    faces: Vec<(Face<'static>, Font)>,
}

/// A stretch of text in one font and one direction.
pub(super) struct Piece {
    pub(super) font: Font,
    pub(super) text: String,
    pub(super) glyphs: Vec<KrillaGlyph>,
    /// In ems.
    pub(super) width: f32,
}

impl Fonts {
    pub(super) fn open() -> Result<Fonts, BadFont> {
        let open = |(place, bytes): (usize, &&'static [u8])| {
            let face = Face::from_slice(bytes, 0).ok_or(BadFont(place))?;
            let font = Font::new((*bytes).into(), 0).ok_or(BadFont(place))?;
            Ok((face, font))
        };
        Ok(Fonts { faces: FILES.iter().enumerate().map(open).collect::<Result<_, BadFont>>()? })
    }

    /// The pieces from left to right.
    pub(super) fn shape(&self, text: &str) -> Vec<Piece> {
        let text = self.readable(text);
        let bidi = BidiInfo::new(&text, None);
        let mut pieces = Vec::new();
        for paragraph in &bidi.paragraphs {
            let (levels, runs) = bidi.visual_runs(paragraph, paragraph.range.clone());
            for run in runs {
                let is_rtl = levels.get(run.start).is_some_and(|level| level.is_rtl());
                let mut shaped = self.shape_run(text.get(run).unwrap_or_default(), is_rtl);
                if is_rtl {
                    shaped.reverse();
                }
                pieces.append(&mut shaped);
            }
        }
        pieces
    }

    /// In ems.
    pub(super) fn width(&self, text: &str) -> f32 {
        self.shape(text).iter().map(|piece| piece.width).sum()
    }

    /// Controls and line ends become blanks; a letter without a font becomes its code point in brackets.
    fn readable(&self, text: &str) -> String {
        let mut readable = String::with_capacity(text.len());
        for letter in text.chars() {
            if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
                readable.push(' ');
            } else if is_invisible(letter) || self.face_of(letter).is_some() {
                readable.push(letter);
            } else {
                readable.push_str(&format!("[U+{:04X}]", u32::from(letter)));
            }
        }
        readable
    }

    fn face_of(&self, letter: char) -> Option<usize> {
        self.faces.iter().position(|(face, _)| face.glyph_index(letter).is_some())
    }

    /// In the order of the text.
    fn shape_run(&self, run: &str, is_rtl: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut begin, mut current) = (0, None);
        for (at, letter) in run.char_indices() {
            // What joins or marks belongs to what it stands at, and so does a blank, where that font has it.
            let stays =
                current.filter(|place| is_invisible(letter) || !letter.is_alphabetic() && self.has(*place, letter));
            let wanted = stays.or_else(|| self.face_of(letter)).or(current);
            if at > begin && wanted != current {
                pieces.extend(self.shape_piece(run.get(begin..at).unwrap_or_default(), current, is_rtl));
                begin = at;
            }
            current = wanted;
        }
        pieces.extend(self.shape_piece(run.get(begin..).unwrap_or_default(), current, is_rtl));
        pieces
    }

    fn has(&self, place: usize, letter: char) -> bool {
        self.faces.get(place).is_some_and(|(face, _)| face.glyph_index(letter).is_some())
    }

    fn shape_piece(&self, text: &str, place: Option<usize>, is_rtl: bool) -> Option<Piece> {
        let (face, font) = self.faces.get(place.unwrap_or(0)).filter(|_| !text.is_empty())?;
        let mut buffer = UnicodeBuffer::new();
        buffer.push_str(text);
        buffer.guess_segment_properties();
        buffer.set_direction(if is_rtl { Direction::RightToLeft } else { Direction::LeftToRight });
        let shaped = rustybuzz::shape(face, &[], buffer);
        let mut starts: Vec<usize> = shaped.glyph_infos().iter().map(|info| info.cluster as usize).collect();
        starts.sort_unstable();
        starts.dedup();
        let em = face.units_per_em() as f32;
        let glyphs: Vec<KrillaGlyph> = shaped
            .glyph_infos()
            .iter()
            .zip(shaped.glyph_positions())
            .map(|(info, position)| {
                let start = info.cluster as usize;
                let end = starts.iter().copied().find(|next| *next > start).unwrap_or(text.len());
                let part = |units: i32| units as f32 / em;
                KrillaGlyph::new(
                    GlyphId::new(info.glyph_id),
                    part(position.x_advance),
                    part(position.x_offset),
                    part(position.y_offset),
                    part(position.y_advance),
                    start..end,
                    None,
                )
            })
            .collect();
        let width = shaped.glyph_positions().iter().map(|position| position.x_advance as f32 / em).sum();
        Some(Piece { font: font.clone(), text: text.to_owned(), glyphs, width })
    }
}

/// Joiners, direction marks and variation selectors show nothing themselves.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}')
}
