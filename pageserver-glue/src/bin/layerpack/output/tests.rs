//! Tests of what is printed.

use std::sync::Arc;

use layer_archive::LayerName;

use super::*;

#[test]
fn sizes_have_three_digits() {
    for (bytes, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_999, "10.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (22_900_000, "22.9 MB"),
        (1_234_567_890_123, "1.23 TB"),
    ] {
        assert_eq!(human_bytes(bytes), text);
    }
}

#[test]
fn nothing_from_outside_reaches_a_terminal_raw() {
    assert_eq!(printable("a\u{1b}[31m\nb\u{9b}ä"), "a\\u{1b}[31m\\nb\\u{9b}ä");
}

#[test]
fn failed_layers_are_one_line_a_cause() {
    let damaged = Arc::new(sync_engine::Error::Damaged {
        object: "log/2".into(),
        range: None,
        source: layer_archive::FormatError::Magic { what: "bundle" },
    });
    let changed = Arc::new(sync_engine::Error::LayerChanged { path: "z".into() });
    let failed = |name: String, error: &Arc<sync_engine::Error>| FailedLayer {
        name: LayerName::new(name).unwrap(),
        error: Arc::clone(error),
    };
    let mut layers: Vec<_> = (0..7).map(|number| failed(format!("a{number}"), &damaged)).collect();
    layers.insert(3, failed("z".into(), &changed));
    let lines = failed_lines("restore", &layers);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("could not restore 7 layers (a0, a1, a2, a3, a4 and 2 more): log/2 is damaged")
    );
    assert!(lines[0].ends_with(": not a Layerpack bundle (wrong magic number)"), "{}", lines[0]);
    assert!(
        lines[1].starts_with("could not restore 1 layer (z): z changed")
            && lines[1].ends_with("run the backup again"),
        "{}",
        lines[1]
    );

    // A full disk gives each layer a cause of its own.
    let layers: Vec<_> = (0..900)
        .map(|number| {
            let path = format!("{number}.temp").into();
            failed(format!("b{number}"), &Arc::new(sync_engine::Error::LayerChanged { path }))
        })
        .collect();
    let lines = failed_lines("restore", &layers);
    assert_eq!(lines.len(), 6);
    assert!(lines[5].contains("895 more layers"), "{}", lines[5]);
}
