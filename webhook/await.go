package main

import (
	"context"
	"fmt"
	"io"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
)

// awaitLimit bounds the wait for every node. It ends before helm's own limit of five
// minutes, so that who uninstalls reads how many nodes are missing.
const (
	awaitLimit = 4 * time.Minute
	awaitPause = time.Second
)

// awaitDaemonSet waits until the DaemonSet has a ready pod on every node that it is for.
// Helm waits for no DaemonSet, but for a Job, which runs this.
func awaitDaemonSet(ctx context.Context, opts options, stdout io.Writer) error {
	config, err := restConfig(opts)
	if err != nil {
		return err
	}
	client, err := appsclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("preparing to wait: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	for {
		set, err := client.DaemonSets(opts.target.namespace).Get(ctx, opts.await, metav1.GetOptions{})
		if err == nil {
			if everywhere(set) {
				_, err = fmt.Fprintf(stdout, "%s is ready on all %d nodes\n", opts.await, set.Status.NumberReady)
				return err
			}
			err = fmt.Errorf("%s is ready on %d of %d nodes", opts.await, set.Status.NumberReady, set.Status.DesiredNumberScheduled)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", awaitLimit, err)
		case <-time.After(awaitPause):
		}
	}
}

// everywhere tells whether nothing is left to wait for. As long as nobody has counted
// the nodes there may be more of them than the status says.
func everywhere(set *appsv1.DaemonSet) bool {
	status := set.Status
	return status.ObservedGeneration >= set.Generation && status.UpdatedNumberScheduled == status.DesiredNumberScheduled &&
		status.NumberReady == status.DesiredNumberScheduled
}
