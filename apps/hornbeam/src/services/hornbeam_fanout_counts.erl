%% SPDX-License-Identifier: Apache-2.0

%% @private How many sessions are attached to which pattern, on this node and on the others.
%%
%% So that `publish' can say how many it reaches, and to which nodes one message has to go, without
%% asking anybody, and at a cost that does not grow with the sessions. (In {@link pg} a session
%% would be one more entry of a list that is copied at each change.)
%%
%% `hornbeam_fanout_counts' has `{{local, Subject}, Count}', which {@link hornbeam_fanout} writes,
%% and `{{remote, Subject}, [{Peer, Count}]}', which {@link hornbeam_fanout_peers} writes; where a
%% count is 0 there is no row, no entry. `hornbeam_fanout_shapes' has `{Shape, Subjects}' for the
%% shapes of the patterns in there (see {@link hornbeam_topic}), counted up and down by both.
-module(hornbeam_fanout_counts).

%% API
-export([create_tables/0]).
-export([shapes/0]).
-export([reach/1]).
-export([local/0]).
-export([local/1]).
-export([set_local/2]).
-export([set_remote/3]).
-export([peers/0]).
-export([remove_peer/1]).

-export_type([peer/0, count/0]).

-type peer() :: pid().
%% A process of another node that takes what is published for its sessions.

-type count() :: non_neg_integer().

-define(COUNTS, ?MODULE).
-define(SHAPES, hornbeam_fanout_shapes).

%% @doc The caller owns the tables.
-spec create_tables() -> ok.
create_tables() ->
    %% Public, as they have two writers each; read at each publish.
    Options = [named_table, public, {read_concurrency, true}],
    _ = ets:new(?COUNTS, Options),
    _ = ets:new(?SHAPES, Options),
    ok.

%% @doc Those of all patterns that sessions are attached to.
-spec shapes() -> [hornbeam_topic:shape()].
shapes() ->
    case ets:info(?SHAPES, size) of
        0 -> [];
        _ -> [Shape || {Shape, Count} <- ets:tab2list(?SHAPES), Count > 0]
    end.

%% @doc How many attachments these subjects have, and where.
-spec reach([hornbeam_topic:subject()]) -> {count(), IsLocal :: boolean(), [peer()]}.
reach(Subjects) ->
    Local = lists:sum([local(Subject) || Subject <- Subjects]),
    Remote = lists:append([remote(Subject) || Subject <- Subjects]),
    {Local + lists:sum([Count || {_, Count} <- Remote]), Local > 0,
     lists:usort([Peer || {Peer, _} <- Remote])}.

-spec local() -> [{hornbeam_topic:subject(), count()}].
local() ->
    ets:select(?COUNTS, [{{{local, '$1'}, '$2'}, [], [{{'$1', '$2'}}]}]).

-spec local(hornbeam_topic:subject()) -> count().
local(Subject) ->
    case ets:lookup(?COUNTS, {local, Subject}) of
        [{_, Count}] -> Count;
        [] -> 0
    end.

-spec set_local(hornbeam_topic:subject(), count()) -> ok.
set_local(Subject, 0) ->
    delete({local, Subject});
set_local(Subject, Count) ->
    insert({local, Subject}, Count).

-spec set_remote(peer(), hornbeam_topic:subject(), count()) -> ok.
set_remote(Peer, Subject, Count) ->
    Others = lists:keydelete(Peer, 1, remote(Subject)),
    case [{Peer, Count} || Count > 0] ++ Others of
        [] -> delete({remote, Subject});
        Counts -> insert({remote, Subject}, Counts)
    end.

-spec peers() -> [peer()].
peers() ->
    Rows = ets:select(?COUNTS, [{{{remote, '_'}, '$1'}, [], ['$1']}]),
    lists:usort([Peer || {Peer, _} <- lists:append(Rows)]).

%% @doc The node has gone. Goes over all rows, as that is rare.
-spec remove_peer(peer()) -> ok.
remove_peer(Peer) ->
    Subjects = ets:select(?COUNTS, [{{{remote, '$1'}, '_'}, [], ['$1']}]),
    lists:foreach(fun(Subject) -> set_remote(Peer, Subject, 0) end, Subjects).

%%% Internal

remote(Subject) ->
    case ets:lookup(?COUNTS, {remote, Subject}) of
        [{_, Counts}] -> Counts;
        [] -> []
    end.

%% The shape is there before the row, and goes after it: a publisher that finds the shape alone
%% has made one pattern in vain.
insert(Key, Value) ->
    _ = ets:member(?COUNTS, Key) orelse add_shape(Key),
    true = ets:insert(?COUNTS, {Key, Value}),
    ok.

delete(Key) ->
    case ets:take(?COUNTS, Key) of
        [] -> ok;
        [_] -> remove_shape(Key)
    end.

add_shape({_, Topic}) when is_binary(Topic) ->
    ok;
add_shape({_, Pattern}) ->
    Shape = hornbeam_topic:shape(Pattern),
    _ = ets:update_counter(?SHAPES, Shape, 1, {Shape, 0}),
    ok.

remove_shape({_, Topic}) when is_binary(Topic) ->
    ok;
remove_shape({_, Pattern}) ->
    Shape = hornbeam_topic:shape(Pattern),
    _ = ets:update_counter(?SHAPES, Shape, -1, {Shape, 0}),
    %% The other writer may have counted it up again.
    true = ets:delete_object(?SHAPES, {Shape, 0}),
    ok.
