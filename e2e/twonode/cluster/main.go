// Command cluster brings up a two-node Kubernetes cluster on this machine, with the
// images of this tree on its nodes, and keeps it until SIGTERM. `make cluster-up` and
// `make cluster-down` run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/twonode"
)

const upLimit = 5 * time.Minute

func main() {
	os.Exit(twonode.Run(func(place twonode.Place) int {
		if err := run(place, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
		}
		return 1
	}))
}

// run brings the cluster up and serves it; it returns only with an error.
func run(place twonode.Place, args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	root := flags.String("root", ".", "the source tree")
	images := flags.String("images", "", "a folder with the images webhook.tar and agent.tar; without it they are made")
	bin := flags.String("bin", "", "a folder with the programs webhook and agent; without it they are built")
	nodes := flags.String("nodes", "node-1,node-2", "names of the nodes")
	kubeconfig := flags.String("kubeconfig", "", "the file that gets the administrator's kubeconfig once the cluster is up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *kubeconfig == "" {
		return errors.New("reading flags: --kubeconfig is missing")
	}
	ctx, cancel := context.WithTimeout(context.Background(), upLimit)
	defer cancel()
	begin := time.Now()
	cluster, _, err := twonode.Up(ctx, place.Folder, twonode.Sources{
		Build: filepath.Join(*root, "e2e", "cluster", "build.sh"), Root: *root, Images: *images, Bin: *bin,
	}, strings.Split(*nodes, ",")...)
	if err != nil {
		return err
	}
	var report strings.Builder
	for _, node := range cluster.Nodes() {
		fmt.Fprintf(&report, "%s %s, pods %v\n", node.Name, node.IPv4, node.Pods)
	}
	fmt.Fprintf(&report, "ready after %s\n", time.Since(begin).Round(time.Second))
	if _, err := io.WriteString(os.Stdout, report.String()); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	// The file tells others that the cluster is up, so it appears at once.
	if err := cluster.WriteKubeconfig(*kubeconfig+".new", "https://"+place.Door.Addr().String()); err != nil {
		return err
	}
	if err := os.Rename(*kubeconfig+".new", *kubeconfig); err != nil {
		return err
	}
	return twonode.Forward(place.Door)
}
