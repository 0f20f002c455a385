//! What of a service may be kept in a release snapshot.

use super::settings::Service;

/// A variable whose name contains one of these is taken for a secret.
const SECRET: [&str; 6] = ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH"];

impl Service {
    /// The same, with the values of environment variables that look secret replaced by `***`.
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut masked = self.clone();
        for (key, value) in &mut masked.env {
            let key = key.to_ascii_uppercase();
            if SECRET.iter().any(|word| key.contains(word)) {
                "***".clone_into(value);
            }
        }
        masked
    }
}
