package policy

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// text is the configuration in one ConfigMap.
type text struct {
	absent   bool   // there is none
	bytes    string // as it stands there
	binary   bool   // in binaryData
	loads    bool   // config holds what agents make of it, but for their flags
	config   config.Config
	layout   layout // of config
	problems []config.Problem

	keys      map[string]string // of several files the key of each; nil: there is one text
	overrides []text            // config's, as texts of their own without problems
}

// on is the text as it holds on a node with these labels.
func (t *text) on(labels map[string]string) *text {
	if _, i := t.config.On(labels); i >= 0 && i < len(t.overrides) {
		return &t.overrides[i]
	}
	return t
}

// read reads the configuration of a ConfigMap. Agents mount binaryData as they
// do data, so that is judged as well.
func (e *Engine) read(object *corev1.ConfigMap) text {
	if object == nil {
		return text{absent: true}
	}
	if e.params.ConfigDirectory {
		return e.readSeveral(object)
	}
	if value, ok := object.Data[ConfigKey]; ok {
		return e.texts.parse(value, e.params)
	}
	if value, ok := object.BinaryData[ConfigKey]; ok {
		t := e.texts.parse(string(value), e.params)
		t.binary = true
		return t
	}
	return text{absent: true}
}

// parseText is the one place where bytes become a configuration.
func parseText(value string, params Params) text {
	t := text{bytes: value}
	parsed, problems := params.Consumer.Parse([]byte(value))
	t.problems = problems
	if slices.ContainsFunc(problems, isFatal) {
		return t
	}
	loaded := textOf(parsed, params.flags())
	loaded.bytes, loaded.problems = value, append(slices.Clip(problems), loaded.problems...)
	return loaded
}

// textOf is a text that loads; the flags of agents may refuse it nevertheless.
func textOf(c config.Config, agent config.Options) text {
	t := text{loads: true, config: c}
	flagged, problems := c.For(agent)
	if t.problems = problems; !slices.ContainsFunc(problems, isFatal) {
		t.config = flagged
	}
	t.layout = layoutOf(t.config, agent)
	for _, o := range t.config.Overrides {
		t.overrides = append(t.overrides, text{loads: true, config: o.Config, layout: layoutOf(o.Config, agent)})
	}
	return t
}

// Bounds of textCache.
const (
	maxTexts     = 4
	maxTextBytes = 64 << 10
)

// textCache remembers the last texts. Who edits writes several times against the
// same old text: a dry run, a denial, the mended text.
type textCache struct {
	mutex sync.Mutex
	texts []text // latest last
}

func (c *textCache) parse(value string, params Params) text {
	if len(value) > maxTextBytes {
		return parseText(value, params)
	}
	c.mutex.Lock()
	i := slices.IndexFunc(c.texts, func(t text) bool { return t.bytes == value })
	if i >= 0 {
		t := c.texts[i]
		c.texts = append(slices.Delete(c.texts, i, i+1), t)
		c.mutex.Unlock()
		return t
	}
	c.mutex.Unlock()
	t := parseText(value, params)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.texts) == maxTexts {
		c.texts = slices.Delete(c.texts, 0, 1)
	}
	c.texts = append(c.texts, t)
	return t
}
