//! The search paths of objects, made into lists when they are first needed.

use std::sync::Arc;

use crate::resolve::search::List;
use crate::resolve::tokens::{Tokens, expand, has_tokens};
use crate::resolve::{Call, ObjectId};

use super::{Link, directory_of};

impl Link<'_> {
    /// `DT_RPATH` as a list; empty when there is a `DT_RUNPATH`, which replaces it.
    pub(super) fn rpath(&mut self, id: ObjectId) -> Arc<List> {
        if let Some(list) = &self.extras[id.0].rpath {
            return Arc::clone(list);
        }
        let facts = Arc::clone(&self.objects[id.0].facts);
        let list = match &facts.rpath {
            Some(written) if facts.runpath.is_none() && !written.is_empty() => {
                self.path_list(id, written, |b| b == b':')
            }
            _ => Arc::default(),
        };
        self.extras[id.0].rpath = Some(Arc::clone(&list));
        list
    }

    /// `DT_RUNPATH` as a list.
    pub(super) fn runpath(&mut self, id: ObjectId) -> Arc<List> {
        if let Some(list) = &self.extras[id.0].runpath {
            return Arc::clone(list);
        }
        let facts = Arc::clone(&self.objects[id.0].facts);
        let list = match &facts.runpath {
            Some(written) if !written.is_empty() => self.path_list(id, written, |b| b == b':'),
            _ => Arc::default(),
        };
        self.extras[id.0].runpath = Some(Arc::clone(&list));
        list
    }

    /// A list as it is written in an object or in its environment. An element whose tokens are not known, or come to
    /// nothing, is dropped; one that is written empty is the working directory.
    pub(super) fn path_list(
        &mut self,
        id: ObjectId,
        written: &[u8],
        is_separator: impl Fn(u8) -> bool,
    ) -> Arc<List> {
        let mut elements = Vec::new();
        for element in written.split(|&b| is_separator(b)) {
            if element.is_empty() {
                elements.push((Vec::new(), Vec::new()));
            } else if let Some(path) = self
                .expand_name(id, element)
                .filter(|path| !path.is_empty())
            {
                elements.push((element.to_vec(), path));
            }
        }
        Arc::new(self.search.list(elements))
    }

    /// `text` of object `id` with its tokens replaced.
    pub(super) fn expand_name(&mut self, id: ObjectId, text: &[u8]) -> Option<Vec<u8>> {
        if !has_tokens(text) {
            return Some(text.to_vec());
        }
        let tokens = Tokens {
            origin: self.origin(id),
            lib: Some(self.constants.lib.clone()),
            platform: self.question.cpu.platform.clone().map(String::into_bytes),
        };
        expand(text, &tokens).filter(|expanded| !expanded.is_empty())
    }

    /// Of a program that the kernel mapped ld.so has to ask where it lies, once and for whichever token is first.
    pub(super) fn origin(&mut self, id: ObjectId) -> Option<Vec<u8>> {
        if id == ObjectId::MAIN && self.mapped_by_kernel && self.extras[0].origin.is_none() {
            self.search.note(Call::Readlink, b"/proc/self/exe", None);
            let real = self.objects[0]
                .node
                .as_ref()
                .map(|node| Arc::clone(&node.real))?;
            self.extras[0].origin = Some(directory_of(&real));
        }
        self.extras[id.0].origin.clone()
    }
}
