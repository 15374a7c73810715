// Package report makes documents for people out of the JSON files of the bench
// tool: one HTML page that needs nothing beside itself (its charts are SVG, made
// here), and the tables of docs/PERFORMANCE.md. It measures nothing.
//
// Start at Read, then WriteHTML (page.go) or Markdown.
package report
