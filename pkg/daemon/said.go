package daemon

// said is the last text of each topic in the log, so that the log tells only of
// changes.
type said map[string]string

// changed reports whether the text is another one than the last of its topic. The
// first text is another one than "".
func (s said) changed(topic, text string) bool {
	if s[topic] == text {
		return false
	}
	s[topic] = text
	return true
}
