package twonode

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
)

// ProbeImage holds the probe; it is the pause image as well. There is no registry: what
// pods run, nodes have imported.
const ProbeImage = "ip-masq-guard.test/probe:e2e"

// file is one entry of an image: a file of this machine, or a link.
type file struct {
	path   string // in the image, without the leading slash
	source string // on this machine
	link   string // target; then there is no source
}

// image is what a docker-archive needs to be told.
type image struct {
	name       string
	entrypoint []string
	user       string
	files      []file
}

// BuildImages returns the archives of the images that nodes need: of the probe, and of
// the webhook and the agent by the names that the chart gives them. Where the sources
// have no images of these two, they are made of the programs and, for the agent, of
// this machine's iptables.
func BuildImages(ctx context.Context, sources Sources, folder string) ([]string, error) {
	probe := filepath.Join(folder, "probe")
	if err := build(ctx, sources.Root, probe, "./e2e/twonode/probe"); err != nil {
		return nil, err
	}
	images := []image{{name: ProbeImage, entrypoint: []string{"/probe"}, files: []file{{path: "probe", source: probe}}}}
	var archives []string
	if sources.Images != "" {
		archives = []string{filepath.Join(sources.Images, "webhook.tar"), filepath.Join(sources.Images, "agent.tar")}
	} else {
		ours, err := programImages(ctx, sources, folder)
		if err != nil {
			return nil, err
		}
		images = append(images, ours...)
	}
	for n, i := range images {
		archive := filepath.Join(folder, fmt.Sprintf("image-%d.tar", n))
		if err := i.write(archive); err != nil {
			return nil, fmt.Errorf("writing image %s: %w", i.name, err)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// programImages are the webhook's and the agent's.
func programImages(ctx context.Context, sources Sources, folder string) ([]image, error) {
	bin := sources.Bin
	if bin == "" {
		bin = folder
		for _, program := range []string{"webhook", "agent"} {
			if err := build(ctx, sources.Root, filepath.Join(bin, program), "./"+program); err != nil {
				return nil, err
			}
		}
	}
	iptables, err := iptablesFiles(ctx)
	if err != nil {
		return nil, fmt.Errorf("collecting the files of iptables: %w", err)
	}
	chart, err := os.ReadFile(filepath.Join(sources.Root, "charts", "ip-masq-guard", "Chart.yaml"))
	if err != nil {
		return nil, fmt.Errorf("looking for the version of the images: %w", err)
	}
	match := regexp.MustCompile(`(?m)^appVersion: "?([^"\s]+)`).FindSubmatch(chart)
	if match == nil {
		return nil, errors.New("looking for the version of the images: no appVersion in Chart.yaml")
	}
	name := func(program string) string { return registry + program + ":" + string(match[1]) }
	return []image{
		{name: name("webhook"), entrypoint: []string{"/webhook"}, user: "65532:65532", files: []file{
			{path: "webhook", source: filepath.Join(bin, "webhook")},
		}},
		{name: name("agent"), entrypoint: []string{"/agent"}, files: append(iptables,
			file{path: "agent", source: filepath.Join(bin, "agent")})},
	}, nil
}

// registry begins the names of images, as in the chart's values.
const registry = "ghcr.io/ip-masq-guard/"

func build(ctx context.Context, root, binary, pkg string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, pkg)
	command.Dir = root
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := output(command, "")
	return err
}

// iptablesFiles are Debian's iptables, both backends, and the libraries they load.
func iptablesFiles(ctx context.Context) ([]file, error) {
	const sbin = "/usr/sbin"
	programs := []string{"xtables-nft-multi", "xtables-legacy-multi"}
	var files []file
	var objects []string
	for _, program := range programs {
		path := filepath.Join(sbin, program)
		files = append(files, file{path: path[1:], source: path})
		objects = append(objects, path)
	}
	// Each name of these programs is a link. /usr/sbin/iptables is one by way of
	// /etc/alternatives.
	names, err := filepath.Glob(sbin + "/ip*tables*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		target, broken := filepath.EvalSymlinks(name)
		if broken != nil {
			return nil, broken
		}
		if slices.Contains(programs, filepath.Base(target)) {
			files = append(files, file{path: name[1:], link: filepath.Base(target)})
		}
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		return nil, err
	}
	for _, extension := range extensions {
		files = append(files, file{path: extension[1:], source: extension})
	}
	objects = append(objects, extensions...)

	listing, err := output(exec.CommandContext(ctx, "ldd", objects...), "")
	if err != nil {
		return nil, err
	}
	var libraries []string
	for _, match := range regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x`).FindAllStringSubmatch(listing, -1) {
		libraries = append(libraries, match[1])
	}
	slices.Sort(libraries)
	for _, library := range slices.Compact(libraries) {
		files = append(files, file{path: library[1:], source: library})
	}
	return files, nil
}

// write makes a docker-archive: the layer, its configuration, and a manifest.
func (i image) write(archive string) (err error) {
	layer := &bytes.Buffer{}
	if err = i.layer(layer); err != nil {
		return err
	}
	digest := sha256.Sum256(layer.Bytes())
	configuration, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.entrypoint, "User": i.user,
			"Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(digest[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{
		{"Config": "config.json", "RepoTags": []string{i.name}, "Layers": []string{"layer.tar"}},
	})
	if err != nil {
		return err
	}
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	for _, part := range []struct {
		name    string
		content []byte
	}{{"layer.tar", layer.Bytes()}, {"config.json", configuration}, {"manifest.json", manifest}} {
		header := &tar.Header{Name: part.name, Mode: 0o644, Size: int64(len(part.content))}
		if err = w.WriteHeader(header); err != nil {
			return err
		}
		if _, err = w.Write(part.content); err != nil {
			return err
		}
	}
	return w.Close()
}

func (i image) layer(out io.Writer) error {
	w := tar.NewWriter(out)
	folders := map[string]bool{".": true}
	for _, f := range i.files {
		if err := addFolder(w, folders, filepath.Dir(f.path)); err != nil {
			return err
		}
		if f.link != "" {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: f.path, Linkname: f.link, Mode: 0o777}); err != nil {
				return err
			}
			continue
		}
		content, err := os.ReadFile(f.source)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: f.path, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return w.Close()
}

// addFolder adds a folder and those above it, once.
func addFolder(w *tar.Writer, known map[string]bool, path string) error {
	if known[path] {
		return nil
	}
	known[path] = true
	if err := addFolder(w, known, filepath.Dir(path)); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: 0o755})
}
