//! Integers beyond 128 bits, which minijinja has no number for: they print and compare, and do not calculate.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr};

/// The digits, with sign.
#[derive(Debug)]
pub struct LargeInteger(pub String);

impl Object for LargeInteger {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
