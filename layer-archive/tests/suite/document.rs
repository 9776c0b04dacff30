//! `docs/format.md` shows what the tool prints.

use crate::worked_example;

const BEGIN: &str = "<!-- worked example: begin -->\n```text\n";
const END: &str = "\n```\n<!-- worked example: end -->";

#[test]
fn the_worked_example_in_the_format_page_is_what_the_tool_prints() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md")).unwrap();
    let (_, rest) = page.split_once(BEGIN).unwrap();
    let (shown, _) = rest.split_once(END).unwrap();
    let printed = worked_example::worked_example().unwrap();
    let differs = shown.lines().zip(printed.lines()).find(|(shown, printed)| shown != printed);
    assert_eq!(differs, None, "run `cargo run -p layer-archive --example worked_example` and paste it");
    assert_eq!(shown.lines().count(), printed.trim_end().lines().count());
}
