package policy

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// configFile is the file that the upstream manifest projects ConfigKey to.
const configFile = "ip-masq-agent"

// FilesOf maps the files that agents with --config-dir read of a ConfigMap to its keys, of
// data and binaryData: those that begin with config.FilePrefix, and ConfigKey under the name
// that the upstream manifest gives its file.
func FilesOf(object *corev1.ConfigMap) map[string]string {
	files := map[string]string{}
	for _, key := range slices.Concat(slices.Collect(maps.Keys(object.Data)), slices.Collect(maps.Keys(object.BinaryData))) {
		switch {
		case strings.HasPrefix(key, config.FilePrefix):
			files[key] = key
		case key == ConfigKey && files[configFile] == "":
			files[configFile] = key
		}
	}
	return files
}

// readSeveral reads a ConfigMap whose keys are the files of a directory: each alone, and
// merged as agents do, in the order of their names.
func (e *Engine) readSeveral(object *corev1.ConfigMap) text {
	files := FilesOf(object)
	if len(files) == 0 {
		return text{absent: true}
	}
	t := text{keys: files}
	var parts []config.Part
	for _, file := range slices.Sorted(maps.Keys(files)) {
		value, ok := object.Data[files[file]]
		if !ok {
			value = string(object.BinaryData[files[file]])
		}
		part, problems := config.ParseFile(config.File{Name: file, Text: []byte(value)}, e.params.flags())
		t.problems = append(t.problems, problems...)
		parts = append(parts, part)
	}
	if slices.ContainsFunc(t.problems, isFatal) {
		return t
	}
	merged, problems := config.Merge(parts, e.params.flags())
	t.problems = append(t.problems, problems...)
	if slices.ContainsFunc(problems, isFatal) {
		return t
	}
	loaded := textOf(merged, e.params.flags())
	loaded.keys, loaded.problems = files, t.problems
	return loaded
}

// placed puts findings on several files where they belong: rules name a place as
// config.Place does, with the file before the path.
func placed(findings []Finding, t text, object *corev1.ConfigMap) []Finding {
	if t.keys == nil {
		return findings
	}
	for i := range findings {
		f := &findings[i]
		if f.Key != ConfigKey || f.Failed {
			continue
		}
		place := t.config.Find(f.Path)
		if f.Key = t.keys[place.File]; f.Key != "" {
			f.Path = place.Path
			if f.Position.Line == 0 {
				f.Position = place.Position
			}
		} else { // what no file has could stand in the first one
			f.Key = t.keys[slices.Min(slices.Collect(maps.Keys(t.keys)))]
		}
		_, f.Binary = object.BinaryData[f.Key]
	}
	return findings
}
