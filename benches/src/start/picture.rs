//! What the README leads with, and the larger picture of the results.

use super::ways::Way;
use super::{Cell, Timed, traps};
use crate::chart::{Axis, Bar, Chart, Group};
use crate::report::{Report, number};
use crate::turns::Taken;

const START_UP: &str = "Start-up, as a multiple of chroot()+exec (native)";

/// Where bars end in pictures: what is slower is drawn cut, with its number.
const AXIS: Axis = Axis {
    end: 4.0,
    step: 0.5,
};

/// What stands below the picture in the README: which programs start faster than natively and which do not, and where that was
/// measured.
pub(super) fn lead(all: &[Timed], report: &Report, cpuid_ns: f64) -> String {
    let warm = all.iter().filter(|timed| !timed.is_cold);
    let mut ratios: Vec<_> = warm
        .map(|timed| {
            (
                timed.ratio(Way::OURS, Way::ChrootExec).p50,
                timed.program.name,
            )
        })
        .collect();
    ratios.sort_by(|left, right| left.0.total_cmp(&right.0));
    let list = |is: &dyn Fn(f64) -> bool| {
        let those = ratios.iter().filter(|(ratio, _)| is(*ratio));
        let those: Vec<_> = those
            .map(|(ratio, name)| match ratio.is_nan() {
                true => format!("`{name}` not measured"),
                false => format!("`{name}` {ratio:.2}"),
            })
            .collect();
        if those.is_empty() {
            "none".to_owned()
        } else {
            those.join(", ")
        }
    };
    let machine = &report.machine;
    format!(
        "![{title}](benches/results/startup.svg)\n\n\
         Start-up as a multiple of the kernel's own chroot() and exec() of the same program from the same sysroot, everything in the cache. Faster than \
         that: {faster}. Not faster: {slower}. Medians of starts in turn on one processor, {date}, {kernel}, {cpus} x {cpu}{vm}; what all this is compared with, \
         cold caches, FUSE and single calls are in [benches/RESULTS.md](benches/RESULTS.md).",
        title = START_UP,
        faster = list(&|ratio| ratio < 1.0),
        slower = list(&|ratio| ratio.is_nan() || ratio >= 1.0),
        date = report.date,
        kernel = machine.kernel,
        cpus = machine.cpus,
        cpu = machine.cpu,
        vm = match traps(cpuid_ns) {
            true => format!(
                " in a virtual machine where each CPUID, of which the C library executes some 68 at start, takes {} us",
                number(cpuid_ns / 1e3)
            ),
            false if machine.is_virtual => " in a virtual machine".to_owned(),
            false => String::new(),
        },
    )
}

/// All that was started with warm caches, or what the README shows of it.
pub(super) fn chart(all: &[Timed], is_short: bool) -> Chart {
    const LEFT_OUT: [Way; 4] = [
        Way::Host,
        Way::Chroot,
        Way::Elfuse("off"),
        Way::Elfuse("strict"),
    ];
    let is_drawn = |timed: &&Timed| !timed.is_cold && (!is_short || timed.program.pictured);
    let groups = all.iter().filter(is_drawn).map(|timed| {
        let native = timed.taken(Way::ChrootExec);
        let native = native.map_or(f64::NAN, |taken| taken.seconds().p50);
        let is_drawn = |cell: &&Cell| {
            let is_said_twice = is_short && cell.way == Way::Elfuse("frozen");
            !LEFT_OUT.contains(&cell.way) && !is_said_twice
        };
        // What is compared, then what with.
        let (rivals, own): (Vec<_>, Vec<_>) =
            timed.cells.iter().filter(is_drawn).partition(|cell| {
                let is_of_two = matches!(cell.way, Way::ChrootExec | Way::Elfuse(_));
                !is_of_two
            });
        let bars = own.into_iter().chain(rivals).map(|cell| {
            let ratio = timed.ratio(cell.way, Way::ChrootExec);
            let seconds = timed.taken(cell.way).map(Taken::seconds);
            Bar {
                label: match cell.way {
                    Way::Elfuse("lease") if is_short => "elfuse".to_owned(),
                    way => way.name(),
                },
                text: match seconds {
                    Some(_) if timed.leaks(cell.way) => "starts the host's programs".to_owned(),
                    Some(seconds) => format!("{} ms, {:.2}x", number(seconds.p50 * 1e3), ratio.p50),
                    None if cell.taken.is_ok() => "fails".to_owned(),
                    None => "not measured".to_owned(),
                },
                value: if timed.leaks(cell.way) {
                    f64::NAN
                } else {
                    ratio.p50
                },
                spread: (ratio.p25, ratio.p75),
                limit: None,
                role: cell.way.role(),
            }
        });
        Group {
            title: format!(
                "{}: {} ms natively",
                timed.program.name,
                number(native * 1e3)
            ),
            bars: bars.collect(),
        }
    });
    Chart {
        title: START_UP.to_owned(),
        unit: "bar: median of the rounds' ratios, less is faster; whisker: p25 to p75; a bar with a gap goes on beyond the axis".to_owned(),
        groups: groups.collect(),
        axis: Some(AXIS),
    }
}
