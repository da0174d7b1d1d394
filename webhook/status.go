package main

import (
	"encoding/json"
	"net/http"
)

// status is what /status tells, beside /metrics: which rules decide.
type status struct {
	Version string     `json:"version"`
	Rules   rulesState `json:"rules"`
}

func statusHandler(current func() status) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "want GET", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(current()) // nobody to tell
	})
}
