-- What a node serves stands in node_processes, for each of its processes (V0012). Nothing reads or writes these any more.
ALTER TABLE nodes DROP COLUMN served_epoch, DROP COLUMN served_revision, DROP COLUMN refusals;
