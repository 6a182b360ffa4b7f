-- The row of a workflow is updated in place: most change once after their insert, and find room on their own page, so that no
-- index is touched. Pages that are full already stay as they are.

alter table workflow_executions set (fillfactor = 60);
