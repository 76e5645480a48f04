//! Where a name is looked for: among the objects that are there, then in files by all rules.

use std::sync::Arc;

use crate::resolve::search::{List, Opened, Search};
use crate::resolve::{Fatal, Object, ObjectId, Role, Source, Stage};

use super::Link;
use super::objects::Extra;

/// `DF_1_NODEFLIB`.
const NO_DEFAULT_DIRECTORIES: u32 = 0x800;

impl<'a> Link<'a> {
    /// An object that goes by that name. A name that was not found before is looked for again.
    pub(super) fn loaded(&self, name: &[u8]) -> Option<ObjectId> {
        let has_name = |(object, extra): &(&Object, &Extra)| {
            object.role != Role::Missing
                && !extra.before_main
                && (object.role != Role::Main && object.path == name
                    || extra.names.iter().any(|other| other == name)
                    || object.facts.soname.as_deref() == Some(name))
        };
        let mut both = self.objects.iter().zip(&self.extras);
        both.position(|pair| has_name(&pair)).map(ObjectId)
    }

    /// Looks for a file by all rules, in order.
    pub(super) fn find(
        &mut self,
        from: ObjectId,
        name: &[u8],
        stages: &mut Vec<Stage>,
    ) -> Result<Option<Opened>, Fatal> {
        if name.contains(&b'/') {
            let Some(path) = self.expand_name(from, name) else {
                return Ok(None);
            };
            return self.in_stage(stages, Source::Path, |search, stage| {
                search.open_path(&path, stage)
            });
        }
        if self.objects[from.0].facts.runpath.is_none() {
            let mut asked = Some(from);
            let mut did_main = false;
            while let Some(id) = asked {
                did_main |= id == ObjectId::MAIN;
                let list = self.rpath(id);
                if let Some(opened) = self.in_list(stages, Source::Rpath(id), &list, name)? {
                    return Ok(Some(opened));
                }
                asked = self.objects[id.0].loader;
            }
            if !did_main {
                let list = self.rpath(ObjectId::MAIN);
                if let Some(opened) =
                    self.in_list(stages, Source::Rpath(ObjectId::MAIN), &list, name)?
                {
                    return Ok(Some(opened));
                }
            }
        }
        let list = Arc::clone(&self.library_path);
        if let Some(opened) = self.in_list(stages, Source::LibraryPath, &list, name)? {
            return Ok(Some(opened));
        }
        let list = self.runpath(from);
        if let Some(opened) = self.in_list(stages, Source::Runpath(from), &list, name)? {
            return Ok(Some(opened));
        }
        let no_defaults = self.objects[from.0].facts.dt_flags_1 & NO_DEFAULT_DIRECTORIES != 0;
        let cached = self.in_cache(name);
        let is_default = |path: &[u8]| {
            self.constants
                .system_directories
                .iter()
                .any(|d| path.starts_with(d))
        };
        let usable = cached.filter(|path| !(no_defaults && is_default(path)));
        let opened = self.in_stage(stages, Source::Cache, |search, stage| match &usable {
            Some(path) => search.open_path(path, stage),
            None => Ok(None),
        })?;
        if opened.is_some() || no_defaults {
            return Ok(opened);
        }
        let list = Arc::clone(&self.system);
        self.in_list(stages, Source::Default, &list, name)
    }

    fn in_list(
        &mut self,
        stages: &mut Vec<Stage>,
        source: Source,
        list: &List,
        name: &[u8],
    ) -> Result<Option<Opened>, Fatal> {
        if list.is_empty() {
            return Ok(None);
        }
        self.in_stage(stages, source, |search, stage| {
            search.search(name, list, stage)
        })
    }

    fn in_stage(
        &mut self,
        stages: &mut Vec<Stage>,
        source: Source,
        search: impl FnOnce(&mut Search<'a>, &mut Stage) -> Result<Option<Opened>, Fatal>,
    ) -> Result<Option<Opened>, Fatal> {
        let mut stage = Stage {
            source,
            tried: Vec::new(),
        };
        let opened = search(&mut self.search, &mut stage);
        stages.push(stage);
        opened
    }
}
