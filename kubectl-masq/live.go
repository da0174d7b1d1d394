package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	networkingclient "k8s.io/client-go/kubernetes/typed/networking/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// pageSize bounds one answer of the API server: a big cluster has thousands of nodes.
const pageSize = 500

// clusterOptions tell how to reach a cluster.
type clusterOptions struct {
	kubeconfig, context string
}

func (o *clusterOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty means that of kubectl")
	flags.StringVar(&o.context, "context", "", "`name` of a context in it; empty means the current one")
}

// liveOptions are for commands that read a file or the cluster.
type liveOptions struct {
	clusterOptions
	live bool
}

func (o *liveOptions) add(flags *pflag.FlagSet) {
	flags.BoolVar(&o.live, "live", false, "read the stored ConfigMap, and the cluster's ranges, from the API server")
	o.clusterOptions.add(flags)
}

// rest is the configuration of clients; it is found as kubectl finds it.
func (o clusterOptions) rest() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, errors.New("there is no kubeconfig: name one with --kubeconfig, or in the variable KUBECONFIG")
	case err != nil:
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.UserAgent = "kubectl-masq/" + version
	return config, nil
}

// stored is what a cluster tells.
type stored struct {
	document *document
	ranges   ranges
}

// read reads the stored ConfigMap and the cluster's ranges. What there are no rights to,
// or what the API server does not have, is noted: without it less is known.
func (o liveOptions) read(ctx context.Context, namespace, name string, notes io.Writer) (stored, error) {
	config, err := o.rest()
	if err != nil {
		return stored{}, err
	}
	core, err := coreclient.NewForConfig(config)
	if err != nil {
		return stored{}, fmt.Errorf("preparing the client: %w", err)
	}
	networking, err := networkingclient.NewForConfig(config)
	if err != nil {
		return stored{}, fmt.Errorf("preparing the client: %w", err)
	}
	note := func(format string, values ...any) {
		_, _ = fmt.Fprintf(notes, "note: "+format+"\n", values...) // the work is done all the same
	}
	var s stored
	where := fmt.Sprintf("configmap %s/%s", namespace, name)
	object, err := core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		note("there is no %s, so agents have their defaults", where)
		s.document = rawDocument(where, nil, namespace, name)
	case err != nil:
		return stored{}, fmt.Errorf("reading %s: %w", where, err)
	default:
		s.document = rawDocument(where, []byte(object.Data[policy.ConfigKey]), namespace, name)
		s.document.configMap.Data, s.document.configMap.BinaryData = object.Data, object.BinaryData
	}
	if s.ranges, err = rangesFrom(ctx, core, networking, note); err != nil {
		return stored{}, err
	}
	return s, nil
}

func rangesFrom(ctx context.Context, core coreclient.NodesGetter, networking networkingclient.ServiceCIDRsGetter, note func(string, ...any)) (ranges, error) {
	var known ranges
	lacking := func(what string, err error) error {
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			note("the ranges of %s are not known: %v", what, err)
			return nil
		}
		return fmt.Errorf("reading the ranges of %s: %w", what, err)
	}
	for page := (metav1.ListOptions{Limit: pageSize}); ; {
		nodes, err := core.Nodes().List(ctx, page)
		if err != nil {
			if err = lacking("nodes and pods", err); err != nil {
				return ranges{}, err
			}
			break
		}
		for i := range nodes.Items {
			own, pods := policy.NodeRanges(&nodes.Items[i])
			known.node, known.pod = append(known.node, own...), append(known.pod, pods...)
		}
		if page.Continue = nodes.Continue; page.Continue == "" {
			break
		}
	}
	services, err := networking.ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return known, lacking("services", err)
	}
	for i := range services.Items {
		known.service = append(known.service, policy.ServiceRanges(&services.Items[i])...)
	}
	return known, nil
}

// and joins what two sources know.
func (r ranges) and(other ranges) ranges {
	return ranges{
		node:    append(slices.Clip(r.node), other.node...),
		pod:     append(slices.Clip(r.pod), other.pod...),
		service: append(slices.Clip(r.service), other.service...),
	}
}

// one reads the one configuration that a command is about, from the file or, with --live,
// from the cluster, and joins the ranges that are known there.
func (o liveOptions) one(ctx context.Context, manifests manifestOptions, file string, known ranges, std streams) (*document, ranges, error) {
	switch {
	case o.live && file != "":
		return nil, known, errors.New("-f and --live exclude each other")
	case o.live && manifests.raw:
		return nil, known, errors.New("--raw and --live exclude each other")
	case o.live:
		s, err := o.read(ctx, manifests.namespace, manifests.name, std.err)
		return s.document, known.and(s.ranges), err
	case file == "":
		return nil, known, errors.New("-f is missing: name a manifest, or - for standard input; or read the cluster with --live")
	}
	document, err := manifests.read(file, std.in)
	return document, known, err
}
