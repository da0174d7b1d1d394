package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// nodeOptions tell which node a question is about: nodeOverrides make a difference.
type nodeOptions struct {
	labels   []string
	nodeName string
}

func (o *nodeOptions) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&o.labels, "node-labels", nil, "`labels` of the node that is asked about, for nodeOverrides: pool=edge,zone=a; empty: it has none")
	flags.StringVar(&o.nodeName, "node", "", "`name` of the node that is asked about; with --live, which has its labels")
}

// of are the labels of the node; nil where it is not known which one this is about.
func (o nodeOptions) of(ctx context.Context, cluster liveOptions, given func(flag string) bool) (map[string]string, error) {
	switch {
	case o.nodeName != "" && given("node-labels"):
		return nil, errors.New("--node and --node-labels exclude each other")
	case o.nodeName != "" && !cluster.live:
		return nil, errors.New("--node is for --live; for a file, state the labels of the node with --node-labels")
	case o.nodeName != "":
		return cluster.labelsOf(ctx, o.nodeName)
	case !given("node-labels"):
		return nil, nil //nolint:nilnil // no labels, not even none, is what is meant
	}
	labels := map[string]string{}
	for _, text := range o.labels {
		one, err := config.ParseLabels(text)
		if err != nil {
			return nil, fmt.Errorf("--node-labels: %s", strings.TrimPrefix(err.Error(), "line 1: "))
		}
		for key, value := range one {
			if before, twice := labels[key]; twice && before != value {
				return nil, fmt.Errorf("--node-labels: a node has the label %s once, not %q and %q", key, before, value)
			}
			labels[key] = value
		}
	}
	return labels, nil
}

// labelsOf are the labels of a node of the cluster; never nil.
func (o liveOptions) labelsOf(ctx context.Context, node string) (map[string]string, error) {
	config, err := o.rest()
	if err != nil {
		return nil, err
	}
	core, err := coreclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing the client: %w", err)
	}
	object, err := core.Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the labels of the node: %w", err)
	}
	labels := map[string]string{}
	maps.Copy(labels, object.Labels)
	return labels, nil
}
