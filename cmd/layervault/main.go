// Command layervault keeps container storage encrypted on disk.
package main

func main() {}
