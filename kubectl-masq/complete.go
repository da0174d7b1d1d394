package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ip-masq-guard/ip-masq-guard/policy"
)

// addOutput adds -o with these formats, of which the first is the default.
func addOutput(command *cobra.Command, output *string, formats ...string) {
	command.Flags().StringVarP(output, "output", "o", formats[0], "`format`: "+alternatives(formats))
	completeFlag(command, "output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// alternatives is "a, b or c".
func alternatives(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func completeFlag(command *cobra.Command, name string, values cobra.CompletionFunc) {
	_ = command.RegisterFlagCompletionFunc(name, values) // fails only without such a flag
}

// completeFlags teaches shells what the flags of a command and of those below it take,
// where that is no file.
func completeFlags(command *cobra.Command) {
	for _, below := range command.Commands() {
		completeFlags(below)
	}
	has := func(name string) bool { return command.Flags().Lookup(name) != nil }
	if has("policy-dir") {
		_ = command.MarkFlagDirname("policy-dir") // fails only without such a flag
	}
	if has("context") {
		completeFlag(command, "context", contexts)
	}
	for _, name := range []string{
		"name", "namespace", "node", "node-labels", "node-cidrs", "pod-cidrs", "service-cidrs", "source-cidrs", "out-interfaces",
		"out-interface", "from", "within", "team", "run", "threshold",
	} {
		if has(name) {
			completeFlag(command, name, cobra.NoFileCompletions)
		}
	}
}

// contexts are those of the kubeconfig.
func contexts(command *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = command.Flag("kubeconfig").Value.String()
	config, err := rules.Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(config.Contexts)), cobra.ShellCompDirectiveNoFileComp
}

// ruleNames are the built-in rules, with what they want.
func ruleNames(_ *cobra.Command, args []string, begin string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	if len(args) == 0 {
		titles := policy.Titles()
		delete(titles, "config-loads") // these two are no Rego
		delete(titles, "policy-decides")
		for name, title := range titles {
			if strings.HasPrefix(name, begin) {
				names = append(names, cobra.CompletionWithDesc(name, title))
			}
		}
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}

// directories completes the arguments of a command to them.
func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}
