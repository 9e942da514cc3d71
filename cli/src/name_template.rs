//! Names of many volumes at once: `vdi-%04d`.

use ashlar_types::{Name, NameError};
use std::str::FromStr;

/// A text with one place for a number, as printf writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    before: String,
    /// Filled up with zeroes to so many digits.
    digits: usize,
    after: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("a template names the place of the number once, as %d or, with leading zeroes, %04d; {0:?} does not")]
    Place(String),
    #[error("a template that makes no names: {0}")]
    Name(#[from] NameError),
}

impl NameTemplate {
    pub fn name(&self, number: u64) -> Result<Name, NameError> {
        let NameTemplate { before, digits, after } = self;
        Name::new(&format!("{before}{number:0digits$}{after}"))
    }
}

impl FromStr for NameTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<NameTemplate, TemplateError> {
        let wrong = || TemplateError::Place(text.to_owned());
        let (before, rest) = text.split_once('%').ok_or_else(wrong)?;
        let (width, after) = rest.split_once('d').ok_or_else(wrong)?;
        let digits = match width.as_bytes() {
            [] => 1,
            [b'0', digit @ b'1'..=b'9'] => usize::from(digit - b'0'),
            _ => return Err(wrong()),
        };
        if after.contains('%') {
            return Err(wrong());
        }
        let template = NameTemplate { before: before.to_owned(), digits, after: after.to_owned() };
        template.name(0)?;
        Ok(template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(template: &str, number: u64) -> String {
        let template: NameTemplate = template.parse().expect("a template");
        template.name(number).expect("a name").to_string()
    }

    #[test]
    fn the_number_stands_where_the_template_says() {
        assert_eq!(made("vdi-%04d", 7), "vdi-0007");
        assert_eq!(made("vdi-%04d", 12_345), "vdi-12345");
        assert_eq!(made("%d.disk", 0), "0.disk");
        assert_eq!(made("dad-%02d-d", 3), "dad-03-d");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for bad in ["", "vdi", "%", "%s", "%4d", "%0d", "%-4d", "%010d", "%d-%d", "100%", "%%d"] {
            assert_eq!(bad.parse::<NameTemplate>(), Err(TemplateError::Place(bad.to_owned())));
        }
        for bad in ["a b%d", "-%d", "a@%d"] {
            assert!(matches!(bad.parse::<NameTemplate>(), Err(TemplateError::Name(_))), "{bad}");
        }
        let long: NameTemplate = format!("{}%d", "x".repeat(254)).parse().expect("one digit fits");
        assert!(long.name(9).is_ok() && long.name(10).is_err());
    }
}
