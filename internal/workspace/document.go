package workspace

// Decode reads a TOML document other than a manifest by the rules of manifests:
// dst is a pointer to a struct with the tags of decode.go, file is how findings
// name the document. The result tells where the value of a key stands, such as
// "repos.main.root"; the struct is usable as far as the findings allow.
func Decode(file string, data []byte, dst any) (at func(key string) Position, findings Errors) {
	p, findings := decode(file, data, dst)
	return p.Position, findings
}
