// Package images tests the images that the Dockerfiles make: what is in them, how
// large they are, whether their programs run there, and that they come out the same
// twice. There is nothing to import.
package images

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "rewrite the lists of contents in testdata from the images")

// version is what the programs have to call themselves.
const version = "v9.8.7-test"

// entry is a file, folder or link of an image.
type entry struct {
	*tar.Header
	content []byte
}

// image is what a docker-archive holds.
type image struct {
	config struct {
		Architecture, OS string
		Created          string
		Config           struct {
			User       string
			Env        []string
			Entrypoint []string
			Labels     map[string]string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	tags    []string
	entries map[string]entry // by path, without a slash at the ends
}

// build makes images of our Dockerfiles. Where it cannot the test is skipped, or fails
// where REQUIRE_IMAGES=1.
func build(t *testing.T, environment []string, names ...string) map[string]image {
	t.Helper()
	if reason := impossible(); reason != "" {
		if os.Getenv("REQUIRE_IMAGES") == "1" {
			t.Fatalf("building images: %s; run `make deps` as root", reason)
		}
		t.Skipf("building images: %s; REQUIRE_IMAGES=1 makes this a failure", reason)
	}
	out := t.TempDir()
	command := exec.CommandContext(t.Context(), "./build.sh", append([]string{out}, names...)...)
	command.Env = append(os.Environ(), append([]string{"VERSION=" + version, "REVISION=0123abc", "SOURCE_DATE_EPOCH=1700000000"}, environment...)...)
	if text, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, text)
	}
	images := map[string]image{}
	for _, name := range names {
		images[name] = read(t, filepath.Join(out, name+".tar"))
	}
	return images
}

// impossible tells why images cannot be built here.
func impossible() string {
	if os.Getuid() != 0 {
		return "not root"
	}
	for _, command := range []string{"buildah", "debootstrap"} {
		if _, err := exec.LookPath(command); err != nil {
			return err.Error()
		}
	}
	return ""
}

// read reads a docker-archive.
func read(t *testing.T, file string) image {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := untar(t, text)
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(parts["manifest.json"].content, &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("reading the manifest of %s: %d images (%v)", file, len(manifest), err)
	}
	img := image{tags: manifest[0].RepoTags, entries: map[string]entry{}}
	if err := json.Unmarshal(parts[manifest[0].Config].content, &img.config); err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest[0].Layers {
		maps.Copy(img.entries, untar(t, parts[layer].content))
	}
	return img
}

func untar(t *testing.T, text []byte) map[string]entry {
	t.Helper()
	entries := map[string]entry{}
	reader := tar.NewReader(bytes.NewReader(text))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		entries[strings.Trim(strings.TrimPrefix(header.Name, "./"), "/")] = entry{header, content}
	}
}

// list is what is in the image: mode, owner, path and where a link leads. Sizes are
// not in it, since Debian mends its packages.
func (i image) list() string {
	var list strings.Builder
	for _, name := range slices.Sorted(maps.Keys(i.entries)) {
		e := i.entries[name]
		fmt.Fprintf(&list, "%s %d:%d /%s", e.FileInfo().Mode(), e.Uid, e.Gid, name)
		if e.Linkname != "" {
			list.WriteString(" -> " + e.Linkname)
		}
		list.WriteByte('\n')
	}
	return list.String()
}

// size is that of all files, in bytes.
func (i image) size() (sum int64) {
	for _, e := range i.entries {
		sum += e.Size
	}
	return sum
}

// unpack makes a folder of the image.
func (i image) unpack(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(i.entries)) { // a folder sorts before what is in it
		e, at := i.entries[name], filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		switch e.Typeflag {
		case tar.TypeDir:
			err = errors.Join(err, os.MkdirAll(at, 0o755))
		case tar.TypeSymlink:
			err = errors.Join(err, os.Symlink(e.Linkname, at))
		case tar.TypeReg:
			err = errors.Join(err, os.WriteFile(at, e.content, e.FileInfo().Mode()))
		default:
			t.Fatalf("%s is of type %c", name, e.Typeflag)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// in runs a program with the image as its root.
func in(t *testing.T, root string, user uint32, argv ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	command.Env = []string{"PATH=/usr/sbin"}
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: user, Gid: user}}
	text, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("%q in the image: %v\n%s", argv, err, text)
	}
	return string(text)
}

func TestImages(t *testing.T) {
	images := build(t, nil, "webhook", "agent")
	// A few MB of room: what a larger one brings should be known.
	for name, most := range map[string]int64{"webhook": 50 << 20, "agent": 20 << 20} {
		img := images[name]
		t.Run(name, func(t *testing.T) {
			golden(t, name, img.list())
			if size := img.size(); size > most {
				t.Errorf("%d bytes, more than %d", size, most)
			} else {
				t.Logf("%.1f MB", float64(size)/1e6)
			}
			if want := []string{"ghcr.io/ip-masq-guard/" + name + ":" + version}; !slices.Equal(img.tags, want) {
				t.Errorf("tags %q, want %q", img.tags, want)
			}
			if want := []string{"/" + name}; !slices.Equal(img.config.Config.Entrypoint, want) {
				t.Errorf("entrypoint %q, want %q", img.config.Config.Entrypoint, want)
			}
			labels := img.config.Config.Labels
			if labels["org.opencontainers.image.version"] != version {
				t.Errorf("labels are %v", labels)
			}
			for _, key := range []string{"title", "description", "source", "licenses", "revision"} {
				if labels["org.opencontainers.image."+key] == "" {
					t.Errorf("no label %s", key)
				}
			}
			if want := "2023-11-14T22:13:20Z"; img.config.Created != want {
				t.Errorf("created %s, want %s, which SOURCE_DATE_EPOCH says", img.config.Created, want)
			}
			for path, e := range img.entries {
				if e.ModTime.Unix() != 1700000000 {
					t.Errorf("/%s is of %s", path, e.ModTime)
				}
				if e.Mode&0o6000 != 0 {
					t.Errorf("/%s runs with the rights of its owner", path)
				}
			}
			linked(t, img, elf.EM_X86_64)
		})
	}

	t.Run("webhook runs", func(t *testing.T) {
		if user := images["webhook"].config.Config.User; user != "65532:65532" {
			t.Errorf("user %q", user)
		}
		root := images["webhook"].unpack(t)
		openToAll(t, root)
		if got := in(t, root, 65532, "/webhook", "--version"); got != version+"\n" {
			t.Errorf("--version prints %q", got)
		}
	})
	t.Run("agent runs", func(t *testing.T) {
		root := images["agent"].unpack(t)
		openToAll(t, root)
		if got := in(t, root, 0, "/agent", "--version"); got != "ip-masq-guard agent "+version+"\n" {
			t.Errorf("--version prints %q", got)
		}
		for command, want := range map[string]string{
			"iptables-nft": "(nf_tables)", "ip6tables-nft-restore": "(nf_tables)", "iptables-nft-save": "(nf_tables)",
			"iptables-legacy": "(legacy)", "ip6tables-legacy-restore": "(legacy)", "ip6tables-legacy-save": "(legacy)",
		} {
			if got := in(t, root, 0, "/usr/sbin/"+command, "--version"); !strings.Contains(got, want) {
				t.Errorf("%s --version prints %q", command, got)
			}
		}
		if got := in(t, root, 0, "/usr/sbin/nft", "--version"); !strings.HasPrefix(got, "nftables v1.") {
			t.Errorf("nft --version prints %q", got)
		}
		// Help of an extension loads it, and what it is linked with.
		for _, extension := range []string{"addrtype", "comment", "set", "connlabel", "statistic"} {
			in(t, root, 0, "/usr/sbin/iptables-nft", "-m", extension, "--help")
			in(t, root, 0, "/usr/sbin/ip6tables-legacy", "-m", extension, "--help")
		}
	})
	// Built once more, without what the first build left: the same, to the bit.
	t.Run("again", func(t *testing.T) {
		again := build(t, []string{"NO_CACHE=1"}, "webhook", "agent")
		for name, img := range images {
			if diff := cmp.Diff(img.config, again[name].config); diff != "" {
				t.Errorf("%s differs (-first +second):\n%s", name, diff)
			}
		}
	})
}

// TestImagesOfAnotherArchitecture builds both for a machine that this is not: nothing of
// them can run here, but all of them can be looked at.
func TestImagesOfAnotherArchitecture(t *testing.T) {
	images := build(t, []string{"ARCH=arm64"}, "webhook", "agent")
	for name, list := range map[string]string{"webhook": "webhook", "agent": "agent-arm64"} {
		t.Run(name, func(t *testing.T) {
			img := images[name]
			if img.config.Architecture != "arm64" || img.config.OS != "linux" {
				t.Errorf("for %s/%s", img.config.OS, img.config.Architecture)
			}
			golden(t, list, img.list())
			linked(t, img, elf.EM_AARCH64)
		})
	}
}

// linked shows that each program and library finds in the image whatever it is linked
// with, and that all are for one machine.
func linked(t *testing.T, img image, machine elf.Machine) {
	t.Helper()
	there := map[string]bool{}
	for name := range img.entries {
		there[path.Base(name)] = true
	}
	programs := 0
	for name, e := range img.entries {
		if !bytes.HasPrefix(e.content, []byte(elf.ELFMAG)) {
			continue
		}
		programs++
		file, err := elf.NewFile(bytes.NewReader(e.content))
		if err != nil {
			t.Fatalf("/%s: %v", name, err)
		}
		if file.Machine != machine {
			t.Errorf("/%s is for %s", name, file.Machine)
		}
		needed, err := file.ImportedLibraries()
		if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
			t.Fatalf("/%s: %v", name, err)
		}
		for _, library := range needed {
			if !there[library] {
				t.Errorf("/%s needs %s", name, library)
			}
		}
		for _, part := range file.Progs {
			if part.Type != elf.PT_INTERP {
				continue
			}
			loader, err := io.ReadAll(part.Open())
			if _, ok := img.entries[strings.Trim(string(loader), "/\x00")]; err != nil || !ok {
				t.Errorf("/%s is loaded by %q, which is not there (%v)", name, loader, err)
			}
		}
	}
	if programs == 0 {
		t.Error("no programs")
	}
}

// openToAll lets other users into a folder of a test.
func openToAll(t *testing.T, root string) {
	t.Helper()
	for folder := root; folder != os.TempDir() && folder != "/"; folder = filepath.Dir(folder) {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// golden compares with testdata/NAME.txt.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update rewrites it:\n%s", file, diff)
	}
}
