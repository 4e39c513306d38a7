"""A worker's child: claims a list, executes it, and watches over itself meanwhile."""
