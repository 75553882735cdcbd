//! Which node runs where: folded once, or at every frame, in which graph.

use super::class::Runs;
use super::plan::{Fed, Node, Place};

/// Gives every node its place. Nodes come behind those that feed them.
///
/// What depends on no frame is folded: such nodes of one level that are linked are one graph, and a costly one is a graph of
/// its own, a level above what feeds it and a level below what it feeds. What depends on the frame is one graph, cut where a
/// node runs on the host.
pub fn assign(nodes: &mut [Node]) {
    // For each node the level at which what it gives can be used.
    let mut ready = vec![0; nodes.len()];
    let mut groups = Groups((0..nodes.len()).collect());
    let mut levels = vec![0; nodes.len()];
    for i in 0..nodes.len() {
        let sources: Vec<usize> = sources(&nodes[i]).collect();
        let runs = nodes[i].runs();
        // A sink takes part in every frame, so that what is shown is always of the frame's own graph.
        let live = nodes[i].class.source.is_some()
            || nodes[i].class.sink.is_some()
            || nodes[i].class.beat
            || sources.iter().any(|&source| nodes[source].live);
        nodes[i].live = live;
        // Levels of folded graphs and of those of the frame are counted apart.
        let below = sources.iter().filter(|&&source| nodes[source].live == live).map(|&source| ready[source]).max();
        let level = below.unwrap_or(0);
        let apart = match runs {
            Runs::Host | Runs::Stage => true,
            Runs::Alone => !live,
            Runs::Graph | Runs::Held | Runs::Sound | Runs::Text | Runs::Refused(_) => false,
        };
        levels[i] = match (apart, live) {
            // A host stage runs after the graph of its level; a folded graph of its own is a level above what feeds it.
            (true, false) => level + 1,
            _ => level,
        };
        ready[i] = if apart { levels[i] + 1 } else { levels[i] };
        if !live && !apart {
            for &source in &sources {
                if !matches!(nodes[source].runs(), Runs::Alone | Runs::Host | Runs::Stage)
                    && levels[source] == levels[i]
                {
                    groups.join(source, i);
                }
            }
        }
    }
    for i in 0..nodes.len() {
        nodes[i].place = match (nodes[i].runs(), nodes[i].live) {
            (Runs::Held | Runs::Refused(_), _) => Place::Held,
            (Runs::Sound, _) => Place::Sound,
            (Runs::Text, _) => Place::Text,
            (Runs::Host | Runs::Stage, true) => Place::Host { level: levels[i] },
            (Runs::Graph | Runs::Alone, true) => Place::Frame { level: levels[i] },
            (_, false) => Place::Once { level: levels[i], group: groups.root(i) },
        };
    }
}

fn sources(node: &Node) -> impl Iterator<Item = usize> {
    node.inputs.iter().filter_map(|fed| match fed {
        Fed::Link { node, .. } => Some(*node),
        _ => None,
    })
}

/// Sets that are joined: each points at another of its set, or at itself.
struct Groups(Vec<usize>);

impl Groups {
    fn root(&mut self, i: usize) -> usize {
        let mut root = i;
        while self.0[root] != root {
            root = self.0[root];
        }
        let mut i = i;
        while self.0[i] != root {
            i = std::mem::replace(&mut self.0[i], root);
        }
        root
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}
