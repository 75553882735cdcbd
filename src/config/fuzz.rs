//! Entry points for fuzzers: any bytes in, no panic out.

use std::collections::BTreeMap;

/// Feeds any text as a configuration file.
pub fn fuzz_config_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let flags = BTreeMap::from([("config".to_owned(), "weir.toml".to_owned())]);
    if let Ok(loaded) = super::load(&flags, &BTreeMap::new(), |_| Ok(text)) {
        // What was understood can be written down and read again.
        let written = loaded.text();
        match super::load(&flags, &BTreeMap::new(), |_| Ok(written.clone())) {
            Ok(again) => {
                let shown =
                    |loaded: &super::Loaded| super::SETTINGS.iter().map(|it| it.shown(&loaded.config)).collect();
                let (first, second): (Vec<String>, Vec<String>) = (shown(&loaded), shown(&again));
                assert_eq!(first, second);
            }
            Err(mistakes) => panic!("{mistakes}\n{written}"),
        }
    }
}
