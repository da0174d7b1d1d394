package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// agentContainer is the one that the chart runs the agent in.
const agentContainer = "agent"

// Where the agent has its configuration without flags, and what names no file.
const defaultConfigPath = "/etc/config/ip-masq-agent"

// stores are what a cluster has stored.
type stores struct {
	get  func(namespace, name string) (*corev1.ConfigMap, error) // nil: there is none
	node func(name string) map[string]string                     // the labels of a node; nil: not known
	read map[string]*config.Config                               // what was read, by the agents' flags and the digest; nil: it does not load
}

// wanted is what the agent of a pod should have in force by what is stored.
type wanted struct {
	digest   string   // as agents name it; empty: the defaults
	files    []string // the names of those it reads
	from     []string // the ConfigMaps that they are keys of: "kube-system/ip-masq-agent"
	override *string  // path of the override that holds on its node, empty for none; nil: not known
	hint     string   // why an override that is for the node does not hold
}

// wantedOf works out what an agent should have in force: which keys of which ConfigMaps
// are the files that its flags name, by what its pod mounts. An error tells why that is
// not known.
func (s stores) wantedOf(pod *corev1.Pod) (wanted, error) {
	container := containerOf(pod)
	if container == nil {
		return wanted{}, errors.New("its pod has no container")
	}
	flags := flagsOf(container)
	v := view{stores: s, pod: pod, container: container}
	at, directory := path.Clean(flags["config-path"]), false
	if flags["config-dir"] != "" {
		at, directory = path.Clean(flags["config-dir"]), true
	}
	mounted, err := v.at(at)
	if err != nil {
		return wanted{}, err
	}
	var w wanted
	var files []config.File
	for _, name := range slices.Sorted(maps.Keys(mounted)) {
		// A file stands at its own path, those of a directory below theirs.
		if directory && (strings.Contains(name, "/") || !strings.HasPrefix(name, config.FilePrefix)) || !directory && name != "" || len(files) > config.MaxFiles {
			continue
		}
		files = append(files, config.File{Name: name, Text: mounted[name].text})
		w.files = append(w.files, cmp.Or(name, path.Base(at)))
		if from := mounted[name].configMap; !slices.Contains(w.from, from) {
			w.from = append(w.from, from)
		}
	}
	read := func() (config.Config, bool) { return config.Default(), true }
	switch {
	case len(files) == 0:
	case directory:
		w.digest = config.DigestFiles(files)
		read = func() (config.Config, bool) {
			return readFiles(files, config.Options{IPv6: flags["enable-ipv6"] == "true", ReservedRanges: flags["nomasq-all-reserved-ranges"] == "true"})
		}
	default:
		w.digest = config.Digest(files[0].Text)
		read = func() (config.Config, bool) {
			c, problems := config.Parse(files[0].Text)
			return c, !anyFatal(problems)
		}
	}
	// Nearly all agents read the same.
	id := fmt.Sprint(flags, w.digest)
	if _, known := s.read[id]; !known {
		s.read[id] = nil
		if c, loads := read(); loads {
			s.read[id] = &c
		}
	}
	if c := s.read[id]; c != nil {
		w.settle(*c, flags["node-labels-file"], v)
	}
	return w, nil
}

// readFiles reads several files as the agent does; those that it refuses are its own
// affair, and then it is not known what holds.
func readFiles(files []config.File, options config.Options) (_ config.Config, loads bool) {
	var parts []config.Part
	for _, file := range files {
		part, problems := config.ParseFile(file, options)
		if anyFatal(problems) {
			return config.Config{}, false
		}
		parts = append(parts, part)
	}
	merged, problems := config.Merge(parts, options)
	return merged, !anyFatal(problems)
}

// settle works out which override should hold.
func (w *wanted) settle(c config.Config, labelsFile string, v view) {
	on := func(labels map[string]string) string {
		if _, index := c.On(labels); index >= 0 {
			return c.Place(index).String()
		}
		return ""
	}
	if len(c.Overrides) == 0 {
		w.override = new(string)
		return
	}
	node := v.node(v.pod.Spec.NodeName)
	labels, known := v.labels(labelsFile, node)
	if !known {
		return
	}
	path := on(labels)
	w.override = &path
	if byNode := on(node); node != nil && path != byNode && byNode != "" {
		w.hint = byNode + " is for it by its labels, which its agent is not told: --node-labels-file"
		if labelsFile != "" {
			w.hint = byNode + " is for it by its labels, but its pod does not have them"
		}
	}
}

func containerOf(pod *corev1.Pod) *corev1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == agentContainer {
			return &pod.Spec.Containers[i]
		}
	}
	if len(pod.Spec.Containers) == 0 {
		return nil
	}
	return &pod.Spec.Containers[0]
}

// flagsOf are the flags of an agent's command line that tell what it reads, with the
// values that they have without being given.
func flagsOf(container *corev1.Container) map[string]string {
	flags := map[string]string{
		"config-path": defaultConfigPath, "config-dir": "", "node-labels-file": "", "enable-ipv6": "false", "nomasq-all-reserved-ranges": "false",
	}
	words := slices.Concat(container.Command, container.Args)
	for i, word := range words {
		name, value, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
		name = strings.ReplaceAll(name, "_", "-")
		unset, known := flags[name]
		switch {
		case !known || !strings.HasPrefix(word, "-"):
		case given:
			flags[name] = value
		case unset == "true" || unset == "false":
			flags[name] = "true"
		case i+1 < len(words):
			flags[name] = words[i+1]
		}
	}
	return flags
}

// view is what a container sees of the cluster's objects.
type view struct {
	stores

	pod       *corev1.Pod
	container *corev1.Container
}

// mountedFile is a file that the kubelet makes of a key.
type mountedFile struct {
	configMap string
	text      []byte
}

// mount is the volume that a path of the container lies in, and the path inside of it.
func (v view) mount(name string) (_ *corev1.Volume, inside string) {
	var best *corev1.VolumeMount
	for i := range v.container.VolumeMounts {
		m := &v.container.VolumeMounts[i]
		at := path.Clean(m.MountPath)
		if (name == at || strings.HasPrefix(name, strings.TrimSuffix(at, "/")+"/")) && (best == nil || len(at) > len(path.Clean(best.MountPath))) {
			best = m
		}
	}
	if best == nil {
		return nil, ""
	}
	inside = path.Join(best.SubPath, strings.TrimPrefix(name, path.Clean(best.MountPath)))
	for i := range v.pod.Spec.Volumes {
		if v.pod.Spec.Volumes[i].Name == best.Name {
			return &v.pod.Spec.Volumes[i], strings.TrimPrefix(inside, "/")
		}
	}
	return nil, ""
}

// at are the files at a path, by their paths from there; a file stands at the empty path.
// An error tells why they are not known.
func (v view) at(name string) (map[string]mountedFile, error) {
	volume, inside := v.mount(name)
	if volume == nil {
		return nil, fmt.Errorf("its pod mounts nothing at %s", name)
	}
	files := map[string]mountedFile{}
	add := func(name string, items []corev1.KeyToPath) error {
		object, err := v.get(v.pod.Namespace, name)
		if err != nil || object == nil {
			return err
		}
		keys := map[string][]byte{}
		maps.Copy(keys, object.BinaryData)
		for key, text := range object.Data {
			keys[key] = []byte(text)
		}
		if len(items) == 0 {
			for key := range keys {
				items = append(items, corev1.KeyToPath{Key: key, Path: key})
			}
		}
		for _, item := range items {
			text, ok := keys[item.Key]
			below, within := strings.CutPrefix("/"+path.Clean(item.Path), strings.TrimSuffix("/"+inside, "/"))
			if ok && within && (below == "" || below[0] == '/') {
				files[strings.TrimPrefix(below, "/")] = mountedFile{v.pod.Namespace + "/" + object.Name, text}
			}
		}
		return nil
	}
	switch source := volume.VolumeSource; {
	case source.ConfigMap != nil:
		return files, add(source.ConfigMap.Name, source.ConfigMap.Items)
	case source.Projected != nil:
		for _, one := range source.Projected.Sources {
			if one.ConfigMap == nil {
				return nil, fmt.Errorf("its pod mounts something else than ConfigMaps at %s", name)
			}
			if err := add(one.ConfigMap.Name, one.ConfigMap.Items); err != nil {
				return nil, err
			}
		}
		return files, nil
	}
	return nil, fmt.Errorf("its pod mounts no ConfigMap at %s", name)
}

// labels are those that the agent knows of its node by a file: those of its pod, by the
// downward API, or of the node, where the node has such a file. They are not known where
// those of the node are not.
func (v view) labels(file string, node map[string]string) (_ map[string]string, known bool) {
	if file == "" {
		return map[string]string{}, true
	}
	volume, inside := v.mount(path.Clean(file))
	if volume != nil && volume.DownwardAPI != nil {
		for _, item := range volume.DownwardAPI.Items {
			if item.Path == inside && item.FieldRef != nil && item.FieldRef.FieldPath == "metadata.labels" {
				return v.pod.Labels, true
			}
		}
	}
	return node, node != nil
}
