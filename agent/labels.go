package main

import (
	"context"
	"log/slog"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// nodeLabels are the labels of this node, as a file has them. Without a file, and
// with one that cannot be used, the node has none.
type nodeLabels struct {
	path   string // empty: none
	labels map[string]string
	seen   *reading // what was read last
}

// look reads the file and tells whether it is another one than before.
func (n *nodeLabels) look(ctx context.Context, log *slog.Logger) (changed bool) {
	if n.path == "" {
		return false
	}
	now := read(n.path)
	if n.seen != nil && n.seen.equal(now) {
		return false
	}
	n.seen = &now
	labels, err := now.labels()
	switch {
	case now.missing:
		log.WarnContext(ctx, "no file of node labels, so no override is in force", "labels", n.path)
	case err != "":
		log.ErrorContext(ctx, "file of node labels ignored, so no override is in force", "labels", n.path, "error", err)
	}
	n.labels = labels
	return true
}

// labels are what a file of labels holds; failure tells why it holds none.
func (r reading) labels() (_ map[string]string, failure string) {
	if r.missing || r.failure != "" {
		return nil, r.failure
	}
	labels, err := config.ParseLabels(string(r.text))
	if err != nil {
		return nil, err.Error()
	}
	return labels, ""
}
