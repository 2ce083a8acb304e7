//! Why a tool failed, in the classes and words of promptflow and of Python.

/// A tool's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whether the host's side has to act, rather than the flow's author.
    pub system: bool,
    pub class: String,
    pub message: String,
    /// Whether the class is promptflow's own, which reaches the caller as it is.
    pub own: bool,
}

impl Failure {
    /// One of promptflow's classes for what the flow's author can mend.
    pub fn user(class: &str, message: impl Into<String>) -> Self {
        Self {
            system: false,
            class: class.to_owned(),
            message: message.into(),
            own: true,
        }
    }

    /// One of promptflow's classes for what the author cannot mend.
    pub fn system(class: &str, message: impl Into<String>) -> Self {
        Self {
            system: true,
            ..Self::user(class, message)
        }
    }

    /// An exception of Python's, or of a library, that promptflow wraps.
    pub fn python(class: &str, message: impl Into<String>) -> Self {
        Self {
            own: false,
            ..Self::user(class, message)
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for Failure {}
