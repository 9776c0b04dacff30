//! What the conformance suite cannot know: file systems that lack one of the two ways to a new name.

use super::*;

/// The way `rename_or_link` takes, and whether it tried a link.
fn way(rename: Result<(), Errno>, link: Result<(), Errno>) -> (Result<By, Errno>, bool) {
    let mut is_link_tried = false;
    let named = rename_or_link(
        || rename,
        || {
            is_link_tried = true;
            link
        },
    );
    (named, is_link_tried)
}

#[test]
fn a_link_stands_in_only_for_a_rename_that_the_file_system_lacks() {
    assert_eq!(way(Ok(()), Ok(())), (Ok(By::Rename), false));
    for lacking in [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP] {
        assert_eq!(way(Err(lacking), Ok(())), (Ok(By::Link), true), "{lacking}");
        assert_eq!(way(Err(lacking), Err(Errno::EXIST)), (Err(Errno::EXIST), true), "{lacking}");
    }
    for refused in [Errno::EXIST, Errno::NOENT, Errno::ACCESS, Errno::PERM, Errno::NOSPC, Errno::IO] {
        assert_eq!(way(Err(refused), Ok(())), (Err(refused), false), "{refused}");
    }
}

#[test]
fn a_file_system_with_neither_is_unsupported_rather_than_forbidden() {
    for lacking in [Errno::PERM, Errno::NOTSUP, Errno::NOSYS, Errno::MLINK] {
        assert_eq!(way(Err(Errno::INVAL), Err(lacking)), (Err(Errno::NOTSUP), true), "{lacking}");
    }
    assert_eq!(way(Err(Errno::INVAL), Err(Errno::ACCESS)), (Err(Errno::ACCESS), true));
}

#[test]
fn a_link_replaces_nothing_and_leaves_the_stage_to_be_removed() {
    let root = tempfile::tempdir().unwrap();
    let dir = Dir::open_ambient_dir(root.path(), cap_std::ambient_authority()).unwrap();
    let mut stage = Stage::create(&dir, "object").unwrap();
    stage.write(b"first").unwrap();
    stage.link("object").unwrap();
    drop(stage);
    let mut second = Stage::create(&dir, "object").unwrap();
    second.write(b"second").unwrap();
    assert_eq!(second.link("object"), Err(Errno::EXIST));
    assert_eq!(second.rename_anew("object"), Err(Errno::EXIST));
    drop(second);
    assert_eq!(dir.read("object").unwrap(), b"first");
    assert_eq!(dir.entries().unwrap().count(), 1, "a stage file was left");
}
