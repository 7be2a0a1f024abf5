//! Why keys or rights cannot be used. A message says where, what, and what to do, and never a secret.

use std::fmt::Display;
use std::path::Path;

use super::text::without_secrets;
use crate::printable::one_line;

/// Why keys or rights cannot be used.
#[derive(Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
#[ignore_extra_doc_attributes]
pub enum AccessError {
    /// {0}
    ///
    /// A file or directory is not there.
    Absent(String),
    /// {0}
    ///
    /// What a file says cannot be.
    Wrong(String),
    /// {0}
    ///
    /// A file or directory cannot be read or made, or not only its owner may read or write it.
    Host(String),
}

impl AccessError {
    pub(super) fn absent(path: &Path, what: impl Display) -> Self {
        Self::Absent(said(path, None, &what.to_string()))
    }

    pub(super) fn wrong(path: &Path, line: Option<usize>, what: impl Display) -> Self {
        Self::Wrong(said(path, line, &what.to_string()))
    }

    /// What is to be said instead where something is not there.
    pub(super) fn if_absent(self, path: &Path, what: &str) -> Self {
        if matches!(self, Self::Absent(_)) { Self::absent(path, what) } else { self }
    }

    pub(super) fn host(path: &Path, what: impl Display) -> Self {
        Self::Host(said(path, None, &what.to_string()))
    }
}

fn said(path: &Path, line: Option<usize>, what: &str) -> String {
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let said = without_secrets(&format!("{}{line}: {what}", path.display()));
    one_line(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::key::SecretKey;

    #[test]
    fn a_message_is_one_line_without_a_secret() {
        let secret = SecretKey::from_bytes([3; 32]).to_text();
        let error = AccessError::wrong(Path::new("x"), Some(3), format!("`{}`\n", *secret));
        assert_eq!(error.to_string(), "x:3: `bls1..`\\n");
        let named_so = AccessError::host(Path::new(secret.as_str()), "is odd");
        assert_eq!(named_so.to_string(), "bls1..: is odd");
    }
}
