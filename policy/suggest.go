package policy

import (
	"maps"
	"slices"
	"strings"
)

// suggestion is " (did you mean KEY?)" for a name that is close to a known one, or
// else the list of what there is.
func suggestion(name string, known fields) string {
	if near := meant(name, known); near != "" {
		return near
	}
	return "; there are " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}

// meant is "; did you mean KEY?" for a name that is close to a known one, or else "".
func meant[M ~map[string]V, V any](name string, known M) string {
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if similar(strings.ToLower(name), strings.ToLower(key)) {
			return "; did you mean " + key + "?"
		}
	}
	return ""
}

// similar tells whether two edits of a letter at most, a third of the letters at
// most, turn a into b.
func similar(a, b string) bool {
	return distance(a, b) <= min(2, len(b)/3)
}

// distance is the Levenshtein distance of two short names.
func distance(a, b string) int {
	const enough = 64 // no name of ours is longer
	if len(a) > enough || len(b) > enough {
		return enough
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
