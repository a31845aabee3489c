-- What a sales lead asks: for each account executive, how many conversations, in how many of them the insight of the variable kpi came up, how
-- much of the talk was the customer's, and in which mood it was (from -1 to 1).

-- A conversation that changes, or gets its transcript later, is landed again: its latest row counts. Its segments and
-- insights are those that were landed together with that row; the latest version may have fewer than the one before.
CREATE VIEW latest AS
SELECT * FROM (
    SELECT * FROM conversations
    QUALIFY row_number() OVER (PARTITION BY conversation_id ORDER BY _dstny_synced_at DESC) = 1
)
WHERE NOT deleted;

WITH talk AS (
    SELECT
        conversation_id,
        sum(end_seconds - start_seconds) AS seconds,
        -- A speaker may be named by the first name only.
        coalesce(sum(end_seconds - start_seconds) FILTER (WHERE NOT starts_with(user_name, speaker)), 0) AS of_customer
    FROM transcript_segments JOIN latest USING (conversation_id, _dstny_run_id)
    GROUP BY conversation_id
),
hits AS (
    SELECT DISTINCT conversation_id
    FROM insights JOIN latest USING (conversation_id, _dstny_run_id)
    WHERE kpi_slug = getvariable('kpi')
)
SELECT
    coalesce(user_name, 'nobody') AS account_executive,
    count(*) AS conversations,
    count(talk.conversation_id) AS transcribed,
    round(avg((hits.conversation_id IS NOT NULL)::INT) FILTER (WHERE talk.conversation_id IS NOT NULL), 2) AS with_kpi,
    round(sum(of_customer) / nullif(sum(seconds), 0), 2) AS customer_talk,
    round(avg(CASE sentiment WHEN 'positive' THEN 1 WHEN 'neutral' THEN 0 WHEN 'negative' THEN -1 END), 2) AS mood
FROM latest
    LEFT JOIN talk USING (conversation_id)
    LEFT JOIN hits USING (conversation_id)
WHERE occurred_at >= getvariable('since')
GROUP BY user_id, user_name
ORDER BY conversations DESC, account_executive;
