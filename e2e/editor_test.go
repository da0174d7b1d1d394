package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// The environment of an editor: this test binary, started by kubectl edit.
const (
	editorScriptVariable = "IPMASQ_E2E_EDITOR" // which of editorScripts to play
	editorRecordVariable = "IPMASQ_E2E_RECORD" // the folder that keeps each buffer it was shown
)

// editorScript is the person at the editor: it is given the buffer of each visit,
// counted from 1, and returns what it saves.
type editorScript func(visit int, buffer string) (string, error)

// editorScripts are known by name, since the editor is another process.
func editorScripts() map[string]editorScript {
	return map[string]editorScript{
		"guide":    editByGuide,
		"give-up":  editAndGiveUp,
		"one-line": editOneLine,
		"rules":    editRules,
		"except":   editExceptions,
	}
}

// editByGuide writes what a vendor's guide shows, misspells a key, and then mends
// both by nothing but what the reopened buffer says.
func editByGuide(visit int, buffer string) (string, error) {
	switch visit {
	case 1:
		return replaceAll(buffer,
			"- 192.168.0.0/16\n", "- 192.168.0.0/16\n    - 198.15.5.92/24\n",
			"resyncInterval:", "resyscInterval:")
	case 2:
		cidr, err := find(buffer, `(?m)^# \* .*"198\.15\.5\.92/24" has host bits set; write (\S+)`)
		if err != nil {
			return "", err
		}
		key, err := find(buffer, `(?m)^# \* .*"resyscInterval".*did you mean "?(\w+)"?`)
		if err != nil {
			return "", err
		}
		return replaceAll(buffer, "- 198.15.5.92/24", "- "+cidr, "resyscInterval:", key+":")
	default:
		return "", fmt.Errorf("there is nothing left to mend at visit %d", visit)
	}
}

// editAndGiveUp makes a mistake and then leaves the reopened buffer as it is.
func editAndGiveUp(visit int, buffer string) (string, error) {
	if visit > 1 {
		return buffer, nil
	}
	return replaceAll(buffer, "- 192.168.0.0/16", "- 192.168.0.0/33")
}

// editOneLine adds a range, as it should be.
func editOneLine(_ int, buffer string) (string, error) {
	return replaceAll(buffer, "- 192.168.0.0/16\n", "- 192.168.0.0/16\n    - 172.16.0.0/12\n")
}

// editExceptions adds an exception that takes the pod range of a node, and then one that
// leaves it.
func editExceptions(visit int, buffer string) (string, error) {
	switch visit {
	case 1:
		return replaceAll(buffer, "resyncInterval:", "masqueradeCIDRs:\n    - 10.244.0.0/16\n    resyncInterval:")
	case 2:
		if _, err := find(buffer, `(?m)^# \* .*masqueradeCIDRs\[0\]: (10\.244\.0\.0/16) takes pod range`); err != nil {
			return "", err
		}
		return replaceAll(buffer, "- 10.244.0.0/16", "- 10.200.0.0/16")
	default:
		return "", fmt.Errorf("there is nothing left to mend at visit %d", visit)
	}
}

// editRules misspells a field of the input in a rule, and mends it by what the reopened
// buffer says.
func editRules(visit int, buffer string) (string, error) {
	switch visit {
	case 1:
		return replaceAll(buffer, "input.config.nonMasqueradeCIDRs\n", "input.config.nonMasqueradeCIDR\n", "203.0.113.", "198.51.100.")
	case 2:
		field, err := find(buffer, `(?m)^# \* .*undefined ref: input\.config\.nonMasqueradeCIDR, .*; did you mean (\w+)\?`)
		if err != nil {
			return "", err
		}
		return replaceAll(buffer, "input.config.nonMasqueradeCIDR\n", "input.config."+field+"\n")
	default:
		return "", fmt.Errorf("there is nothing left to mend at visit %d", visit)
	}
}

// replaceAll replaces pairs of old and new text below the comments at the top; each
// old text has to be there.
func replaceAll(buffer string, pairs ...string) (string, error) {
	head, text := splitHeader(buffer)
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			return "", fmt.Errorf("the buffer does not have %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return head + text, nil
}

// splitHeader cuts a buffer behind the comments at its top.
func splitHeader(buffer string) (head, text string) {
	text = buffer
	for strings.HasPrefix(text, "#") {
		_, text, _ = strings.Cut(text, "\n")
	}
	return strings.TrimSuffix(buffer, text), text
}

// find returns the first group of a pattern in the buffer.
func find(buffer, pattern string) (string, error) {
	match := regexp.MustCompile(pattern).FindStringSubmatch(buffer)
	if match == nil {
		return "", fmt.Errorf("the buffer has nothing like %s", pattern)
	}
	return match[1], nil
}

// editBuffer is the editor's main: it keeps what it was shown and plays the script.
func editBuffer(name, record string, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("editing %q: one file is wanted", args)
	}
	script, ok := editorScripts()[name]
	if !ok {
		return fmt.Errorf("looking for the script %q: there is none", name)
	}
	shown, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("reading the buffer: %w", err)
	}
	visit := 1
	for isFile(visitFile(record, visit)) {
		visit++
	}
	if err = os.WriteFile(visitFile(record, visit), shown, 0o600); err != nil {
		return fmt.Errorf("keeping the buffer: %w", err)
	}
	saved, err := script(visit, string(shown))
	if err != nil {
		return fmt.Errorf("visit %d: %w", visit, err)
	}
	return os.WriteFile(args[0], []byte(saved), 0o600)
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// visitFile keeps the buffer of one visit.
func visitFile(record string, visit int) string {
	return filepath.Join(record, fmt.Sprintf("visit-%d", visit))
}
