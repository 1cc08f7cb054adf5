// Command bench measures layervault against docker's plain overlay2 in one run on
// one machine, and prints a table and (with -json) a file. It runs as root where
// dockerd has layervault as its storage driver: make bench runs it in the guest.
//
// What is compared with what:
//
//   - ApplyDiff: a tar in memory goes to the plugin's socket as dockerd sends it,
//     against chrootarchive.UntarUncompressed into a directory plus the walk that
//     overlay2's ApplyDiff does for its size. Both end with a syncfs of the disk, since ours
//     answers when the layer is durable and overlay2 does not.
//   - docker load: the same through the engines, syncfs included.
//   - docker run: docker run --rm of the Debian image, from the client's start to its end.
//   - files: fio on a file in a container, against fio in the same container on that very
//     file by its name on the file system of that container's layer, mounted a second time:
//     on the same blocks of the same dm-crypt device.
//   - with -base: the program and an earlier one of itself, each as a service with a vault
//     and an engine of its own: docker run, ApplyDiff, the first Get of sealed layers, reading
//     all files of one with empty and with full caches, and what one takes on disk.
//   - with -containerd: layervault's snapshotter and differ against containerd's snapshotters:
//     layers in the content store until they are durable snapshots, ctr run.
//   - with -upgrade: layervault persist upgrade of 1.5 GB in 10,000 files against cp -a of the
//     same files into the same area, until its end, and until the files are on the disk; and
//     the memory that the upgrade takes.
//   - volumes: the same for a volume, as a volume of docker's local driver on that device
//     would be. Both tell what layervault costs, not what a container does.
//
// Pairs are measured in turns, A B B A A B, and the ratio is the median of those of the
// turns, with the interval that holds it: on an emulated or a shared machine single times
// mean little, ratios within a turn do.
package main
