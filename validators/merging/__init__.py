"""Results of several hospitals that pool exactly, out of counts and sums: no case leaves one."""
