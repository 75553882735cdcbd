//! Numbers that nobody can guess.

/// `bytes` random bytes as hex digits; none when the system has none to give.
pub(super) fn hex(bytes: usize) -> Option<String> {
    let mut buffer = vec![0; bytes];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut buffer).ok()?;
    Some(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_differ() {
        let (one, other) = (super::hex(16).expect("random"), super::hex(16).expect("random"));
        assert!(one.len() == 32 && one != other);
    }
}
