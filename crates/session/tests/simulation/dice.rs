//! Choices, from the bits of one number. Zero chooses the first of everything, so what proptest shrinks gets simpler.

/// A number whose bits are used up.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// A number below `sides`.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        let sides = sides.max(1) as u64;
        let rolled = self.0 % sides;
        self.0 /= sides;
        usize::try_from(rolled).unwrap_or(0)
    }

    /// One of some things; the first more often, when it is there several times.
    pub(crate) fn of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    /// True once in `times`.
    pub(crate) fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}
