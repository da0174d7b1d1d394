package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// FilePrefix begins the names of the files that are read of a directory, as in Azure's
// ip-masq-agent-v2.
const FilePrefix = "ip-masq"

// Digest names a text: its SHA-256, as sha256sum prints it.
func Digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// DigestFiles names several texts: the Digest of what sha256sum prints of them, a line
// each, in the order given.
func DigestFiles(files []File) string {
	var b bytes.Buffer
	for _, file := range files {
		fmt.Fprintf(&b, "%s  %s\n", Digest(file.Text), file.Name)
	}
	return Digest(b.Bytes())
}
