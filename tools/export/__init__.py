"""Parts of an exported bundle: configs, library, networks, weights, and all of its files."""
