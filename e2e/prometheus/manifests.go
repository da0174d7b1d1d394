//go:build manifests

package main

// The module of this package has the CRDs of ServiceMonitor and PrometheusRule, which
// build.sh takes from it.
import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
