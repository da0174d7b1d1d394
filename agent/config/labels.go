package config

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxLabelBytes bounds a file of labels: a node has at most 256 KiB of metadata.
const MaxLabelBytes = 256 << 10

// ParseLabels reads the labels of a node as the downward API writes them, a line each:
// key="value", with the value quoted as Go quotes text. Without quotes the value is what
// stands behind the first =. Blank lines say nothing. An error names the line.
func ParseLabels(text string) (map[string]string, error) {
	if len(text) > MaxLabelBytes {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), MaxLabelBytes)
	}
	labels := map[string]string{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d: %s is not key=\"value\"", number, quote(line))
		}
		if strings.HasPrefix(value, `"`) {
			unquoted, err := strconv.Unquote(value)
			if err != nil {
				return nil, fmt.Errorf("line %d: the quotes of %s do not fit", number, quote(value))
			}
			value = unquoted
		}
		if why := badLabelKey(key); why != "" {
			return nil, fmt.Errorf("line %d: %s is no key of a label: %s", number, quote(key), why)
		}
		if why := badLabelValue(value); why != "" {
			return nil, fmt.Errorf("line %d: %s is no value of a label: %s", number, quote(value), why)
		}
		labels[key] = value
	}
	return labels, nil
}
