%% SPDX-License-Identifier: Apache-2.0

%% @private Cowboy's and Ranch's own log lines. Without a domain, since OTP's default handler drops
%% every domain but its own.
%%
%% One kind is dropped: messages for a stream that is over. A worker that answers at the moment at
%% which its client leaves makes them, as does a timer that fires while it is cancelled; they are
%% as expected as they are harmless.
-module(hornbeam_cowboy_log).

%% Called by cowboy:log/4.
-export([emergency/2]).
-export([alert/2]).
-export([critical/2]).
-export([error/2]).
-export([warning/2]).
-export([notice/2]).
-export([info/2]).
-export([debug/2]).

-spec emergency(io:format(), [term()]) -> ok.
emergency(Format, Args) -> logger:emergency(Format, Args).

-spec alert(io:format(), [term()]) -> ok.
alert(Format, Args) -> logger:alert(Format, Args).

-spec critical(io:format(), [term()]) -> ok.
critical(Format, Args) -> logger:critical(Format, Args).

-spec error(io:format(), [term()]) -> ok.
error(Format, Args) -> logger:error(Format, Args).

-spec warning(io:format(), [term()]) -> ok.
warning("Received message ~p for unknown stream ~p." ++ _, _Args) -> ok;
warning(Format, Args) -> logger:warning(Format, Args).

-spec notice(io:format(), [term()]) -> ok.
notice(Format, Args) -> logger:notice(Format, Args).

-spec info(io:format(), [term()]) -> ok.
info(Format, Args) -> logger:info(Format, Args).

-spec debug(io:format(), [term()]) -> ok.
debug(Format, Args) -> logger:debug(Format, Args).
