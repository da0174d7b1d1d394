package policy

import (
	"slices"
	"sync"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

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

func (c *textCache) parse(value string, agent config.Options) text {
	if len(value) > maxTextBytes {
		return parseText(value, agent)
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
	t := parseText(value, agent)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.texts) == maxTexts {
		c.texts = slices.Delete(c.texts, 0, 1)
	}
	c.texts = append(c.texts, t)
	return t
}
