use std::collections::BTreeMap;

use elfuse_format::snapshot::{NO_FILE, PAGE, Value, region_flags};
use elfuse_runtime::sys::memory::OWN;

use super::{Difference, Image, Mapping, Page, compare};

const WORDS: usize = PAGE as usize / 8;

/// A program at `program`, its dynamic linker at `loader`, each of two pages of data.
fn image(program: u64, loader: u64, id: u64) -> Image {
    let mapping = |object: u32, start: u64| Mapping {
        start,
        end: start + 2 * PAGE,
        protection: 3,
        offset: 0,
        file: object,
        object,
    };
    Image {
        mappings: vec![mapping(0, program), mapping(1, loader)],
        objects: vec![(program, program + 2 * PAGE), (loader, loader + 2 * PAGE)],
        pages: BTreeMap::new(),
        values: vec![
            (Value::StackPointer, 0x7ffc_0000_0000 + 0x1110 * id),
            (Value::ExecFn, OWN.start as u64 + 0x100),
            (Value::Canary, 0x1234_5678_9abc_de00 ^ (id << 32)),
            (Value::ArgumentCount, id),
            (Value::ThreadId, 1000 + id),
        ],
        vdso: (
            0x7fff_0000_0000 + 0x10_0000 * id,
            0x7fff_0000_2000 + 0x10_0000 * id,
        ),
        loader: (loader, loader + 2 * PAGE),
        rseq: (0, 0),
        ticks: (1_000_000 * id, 1_000_000 * id + 500_000),
    }
}

fn two() -> [Image; 2] {
    [
        image(0x5555_0000_0000, 0x7f00_0000_0000, 1),
        image(0x5666_1234_5000, 0x7e00_4321_0000, 2),
    ]
}

/// Puts a word into the first page of both programs.
fn put(images: &mut [Image; 2], word: usize, values: [u64; 2]) {
    put_in(images, (0, 0), word, values);
}

fn put_in(images: &mut [Image; 2], page: (u32, u32), word: usize, values: [u64; 2]) {
    for (image, value) in images.iter_mut().zip(values) {
        let page: &mut Page = image
            .pages
            .entry(page)
            .or_insert_with(|| Box::new([0; PAGE as usize]));
        page[8 * word..][..8].copy_from_slice(&value.to_le_bytes());
    }
}

#[test]
fn an_address_of_what_moved_moves_and_a_word_that_is_the_same_stays() {
    let mut images = two();
    put(&mut images, 3, [0x5555_0000_0010, 0x5666_1234_5010]);
    put(&mut images, 4, [0x7f00_0000_0ff8, 0x7e00_4321_0ff8]);
    put(&mut images, 5, [77, 77]);
    let [one, other] = images;
    let common = compare(&one, &other).unwrap();
    assert_eq!(common.slides.len(), 1);
    assert_eq!(common.slides[0][0], 1 << 3 | 1 << 4);
    assert!(common.slides[0][1..].iter().all(|bits| *bits == 0));
    assert!(common.fix_ups.is_empty());
    assert_eq!(common.pages[40..48], 77_u64.to_le_bytes());
    assert!(common.moves(0x5555_0000_0000) && common.moves(0x7f00_0000_0000));
}

#[test]
fn an_address_in_front_of_an_object_is_one_of_it_but_not_one_far_away() {
    let mut images = two();
    put(&mut images, 0, [0x5554_ffff_f000, 0x5666_1234_4000]);
    let [one, other] = &images;
    assert_eq!(compare(one, other).unwrap().slides[0][0], 1);
    put(&mut images, 0, [0x5554_f000_0000, 0x5666_0234_5000]);
    let [one, other] = &images;
    assert!(matches!(compare(one, other), Err(Difference::Word { .. })));
}

#[test]
fn what_each_process_has_for_itself_is_found_by_value_and_not_kept() {
    let mut images = two();
    for word in [7, 9] {
        let values = [0, 1].map(|which: usize| images[which].values[2].1);
        put(&mut images, word, values);
    }
    put(&mut images, 8, [0x7ffc_0000_1110, 0x7ffc_0000_2220]);
    put(&mut images, 10, [0x7fff_0010_0120, 0x7fff_0020_0120]);
    // argc beside something else, and the thread's number in the upper half.
    put(&mut images, 11, [0x5_0000_0001, 0x5_0000_0002]);
    put(&mut images, 12, [1001 << 32 | 6, 1002 << 32 | 6]);
    put(&mut images, 13, [1_000_007, 2_400_000]);
    let execfn = OWN.start as u64 + 0x100;
    put(&mut images, 14, [execfn, execfn]);
    let [one, other] = images;
    let common = compare(&one, &other).unwrap();
    let found: Vec<_> = common
        .fix_ups
        .iter()
        .map(|fix_up| {
            (
                fix_up.at,
                Value::from_number(fix_up.value).unwrap(),
                fix_up.addend,
            )
        })
        .collect();
    let expected = [
        (56, Value::Canary, 0),
        (64, Value::StackPointer, 0),
        (72, Value::Canary, 0),
        (80, Value::Vdso, 0x120),
        (88, Value::ArgumentCount, 0),
        (100, Value::ThreadId, 0),
        (104, Value::Ticks, 0),
        (112, Value::ExecFn, 0),
    ];
    assert_eq!(found, expected);
    assert_eq!(common.slides[0], [0; 64]);
    // Nothing of the captured process is left but what stands beside it.
    assert_eq!(common.pages[56..64], [0; 8]);
    assert_eq!(common.pages[88..96], 0x5_0000_0000_u64.to_le_bytes());
    assert_eq!(common.pages[96..104], 6_u64.to_le_bytes());
}

#[test]
fn an_address_of_a_frame_that_was_left_goes_with_the_stack_pointer_and_none_above_it_does() {
    let mut images = two();
    put(&mut images, 0, [0x7ffc_0000_1000, 0x7ffc_0000_2110]);
    let [one, other] = &images;
    let fix_up = compare(one, other).unwrap().fix_ups[0];
    assert_eq!(fix_up.value, Value::StackPointer as u16);
    assert_eq!(fix_up.addend, 0x110_u64.wrapping_neg());
    put(&mut images, 0, [0x7ffc_0000_1120, 0x7ffc_0000_2230]);
    let [one, other] = &images;
    assert!(matches!(compare(one, other), Err(Difference::Word { .. })));
}

#[test]
fn a_word_that_is_not_understood_keeps_the_program_out() {
    let mut images = two();
    put(&mut images, 20, [0xdead, 0xbeef]);
    let [one, other] = &images;
    let expected = Difference::Word {
        address: 0x5555_0000_00a0,
        mapping: 0,
        first: 0xdead,
        second: 0xbeef,
    };
    assert_eq!(compare(one, other), Err(expected));
}

#[test]
fn only_the_dynamic_linker_may_say_how_long_something_took_and_not_often() {
    let mut images = two();
    for word in 0..4 {
        put_in(&mut images, (1, 0), word, [0xdead, 0xbeef]);
    }
    let [one, other] = &images;
    assert!(compare(one, other).is_ok());
    put_in(&mut images, (1, 0), 4, [0xdead, 0xbeef]);
    let [one, other] = &images;
    assert!(matches!(compare(one, other), Err(Difference::Word { .. })));
}

#[test]
fn a_word_that_leads_into_the_runtime_keeps_the_program_out() {
    let mut images = two();
    let own = OWN.start as u64 + 0x2000;
    put(&mut images, 0, [own, own]);
    let [one, other] = &images;
    assert!(matches!(compare(one, other), Err(Difference::Own { .. })));
}

#[test]
fn code_that_was_written_to_keeps_the_program_out() {
    let mut images = two();
    put(&mut images, 0, [1, 1]);
    for image in &mut images {
        image.mappings[0].protection = 5;
    }
    let [one, other] = &images;
    assert!(matches!(
        compare(one, other),
        Err(Difference::TextRelocation(_))
    ));
    for image in &mut images {
        image.mappings[0].protection = 7;
    }
    let [one, other] = &images;
    assert!(matches!(
        compare(one, other),
        Err(Difference::WritableCode(_))
    ));
}

#[test]
fn images_of_different_shape_or_at_the_same_place_are_not_compared() {
    let [one, mut other] = two();
    assert_eq!(compare(&one, &one), Err(Difference::NotRandom));
    other.mappings[1].end += PAGE;
    assert!(matches!(
        compare(&one, &other),
        Err(Difference::Mappings { .. })
    ));
    other.mappings.pop();
    assert!(matches!(
        compare(&one, &other),
        Err(Difference::Mappings { .. })
    ));
}

#[test]
fn a_program_that_is_linked_to_its_place_stays_there_and_what_it_needs_moves() {
    let mut images = [
        image(0x40_0000, 0x7f00_0000_0000, 1),
        image(0x40_0000, 0x7e00_4321_0000, 2),
    ];
    put(&mut images, 0, [0x40_0010, 0x40_0010]);
    put(&mut images, 1, [0x7f00_0000_0010, 0x7e00_4321_0010]);
    let [one, other] = images;
    let common = compare(&one, &other).unwrap();
    assert_eq!(common.slides[0][0], 2);
    let flags: Vec<_> = common.regions.iter().map(|region| region.flags).collect();
    assert_eq!(flags, [0, region_flags::MOVES]);
    assert_eq!(common.head_flags(0x40_0000), 0);
    assert_ne!(common.head_flags(0x7f00_0000_0000), 0);
}

#[test]
fn pages_of_zeros_are_kept_only_where_a_file_has_something_else() {
    let mut images = two();
    put_in(&mut images, (0, 0), 0, [0, 0]);
    put_in(&mut images, (1, 0), 0, [0, 0]);
    for image in &mut images {
        image.mappings[1].file = NO_FILE;
    }
    let [one, other] = images;
    let common = compare(&one, &other).unwrap();
    assert_eq!((common.runs.len(), common.runs[0].region), (1, 0));
}

#[test]
fn what_the_kernel_writes_to_is_kept_as_it_was_before_it_was_told_of_it() {
    let mut images = two();
    put(&mut images, 4, [0x0000_0003_0000_0003, 0]);
    put(&mut images, 5, [9, 0]);
    images[0].rseq = (0x5555_0000_0020, 32);
    images[1].rseq = (0x5666_1234_5020, 32);
    let [one, other] = images;
    let common = compare(&one, &other).unwrap();
    let unregistered = 0xffff_ffff_0000_0000_u64.to_le_bytes();
    assert_eq!(common.pages[32..40], unregistered);
    assert_eq!(common.pages[40..64], [0; 24]);
}

proptest::proptest! {
    /// Restoring at the second's place what was made of both gives the second.
    #[test]
    fn what_is_put_where_the_second_lay_is_the_second(
        words in proptest::collection::vec((0..4_u8, 0..WORDS, 0..PAGE / 8, 0..2_usize), 1..60),
    ) {
        let mut images = two();
        let bases = images.clone().map(|image| image.objects);
        for (kind, word, offset, object) in words {
            let values = match kind {
                0 => [offset; 2],
                1 => [0, 1].map(|which: usize| bases[which][object].0 + 8 * offset),
                2 => [0, 1].map(|which: usize| images[which].vdso.0 + offset),
                _ => [0, 1].map(|which: usize| images[which].values[2].1),
            };
            put_in(&mut images, (object as u32, 1), word, values);
        }
        let [one, other] = &images;
        let common = compare(one, other).unwrap();
        for (number, page) in common.pages.chunks_exact(PAGE as usize).enumerate() {
            let mut page = page.to_vec();
            let run = common.runs.iter().position(|run| {
                let before: u32 = common.runs.iter().take_while(|other| *other != run).map(|run| run.pages).sum();
                (before..before + run.pages).contains(&(number as u32))
            });
            let region = common.runs[run.unwrap()].region;
            for word in 0..WORDS {
                let at = 8 * word;
                let value = u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
                if common.slides[number][word / 8] & 1 << (word % 8) != 0 {
                    // Each object has gone its own way; which one it is is told by where the address lies.
                    let object = usize::from(value >= bases[0][1].0);
                    let moved = value - bases[0][object].0 + bases[1][object].0;
                    page[at..at + 8].copy_from_slice(&moved.to_le_bytes());
                }
            }
            for fix_up in common.fix_ups.iter().filter(|fix_up| fix_up.page as usize == number) {
                let value = Value::from_number(fix_up.value).unwrap();
                let base = match value {
                    Value::Vdso => other.vdso.0,
                    _ => other.values.iter().find(|(known, _)| *known == value).unwrap().1,
                };
                let at = usize::from(fix_up.at);
                page[at..at + 8].copy_from_slice(&(base + fix_up.addend).to_le_bytes());
            }
            let wanted = &other.pages[&(region, 1)];
            proptest::prop_assert_eq!(&page[..], &wanted[..]);
        }
    }
}
